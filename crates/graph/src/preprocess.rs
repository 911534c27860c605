use serde::{Deserialize, Serialize};

/// Order of an image's channels as the network was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red, green, blue (torchvision).
    #[default]
    Rgb,
    /// Blue, green, red (Caffe).
    Bgr,
}

/// From a decoded image to the network's input: resize the shorter side, centre crop, scale, normalise.
///
/// Value of channel `c`: `(pixel / divide - mean[c]) / std[c]`, `pixel` in 0..=255; `mean` and `std` are in the order of
/// `order`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Shorter side after resizing (bilinear with antialias, as torchvision on PIL images); `None` keeps the size.
    #[serde(default)]
    pub resize: Option<usize>,
    /// Side of the centre crop, which is the network's input; `None` keeps the size.
    #[serde(default)]
    pub crop: Option<usize>,
    /// Channel order.
    #[serde(default)]
    pub order: ChannelOrder,
    /// 255 for networks trained on 0..1, 1 for Caffe's 0..255.
    #[serde(default = "two_five_five")]
    pub divide: f32,
    /// Subtracted, one a channel.
    pub mean: [f32; 3],
    /// Divided by, one a channel.
    pub std: [f32; 3],
}

fn two_five_five() -> f32 {
    255.0
}

impl Preprocess {
    /// torchvision's for ImageNet: shorter side 256, centre crop 224, ImageNet mean and standard deviation.
    pub fn imagenet() -> Self {
        Self { resize: Some(256), crop: Some(224), ..Self::imagenet_statistics() }
    }

    /// ImageNet mean and standard deviation, size kept (CIFAR-10 networks and the embedded set).
    pub fn imagenet_statistics() -> Self {
        Self {
            resize: None,
            crop: None,
            order: ChannelOrder::Rgb,
            divide: 255.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        }
    }

    /// The part of it that changes values, with a table for each channel.
    pub fn normaliser(&self) -> Normaliser {
        let value = |c: usize, byte: usize| (byte as f32 / self.divide - self.mean[c]) / self.std[c];
        Normaliser { values: std::array::from_fn(|c| std::array::from_fn(|byte| value(c, byte))), order: self.order }
    }
}

/// From decoded pixels of the network's size to its input: `(pixel / divide - mean[c]) / std[c]` in that order of rounding,
/// as torchvision's `ToTensor` and `Normalize` do.
#[derive(Debug, Clone, PartialEq)]
pub struct Normaliser {
    /// `[channel of the network][byte]` to the normalised value.
    values: [[f32; 256]; 3],
    order: ChannelOrder,
}

impl Normaliser {
    /// `[H, W, RGB]` bytes to `[C, H, W]` in the network's channel order.
    ///
    /// # Panics
    /// Unless `out` is as long as `rgb`.
    pub fn apply(&self, rgb: &[u8], out: &mut [f32]) {
        assert_eq!(rgb.len(), out.len(), "a value for each byte");
        let plane = out.len() / 3;
        for (channel, values) in self.values.iter().enumerate() {
            let from = match self.order {
                ChannelOrder::Rgb => channel,
                ChannelOrder::Bgr => 2 - channel,
            };
            for (value, pixel) in out[channel * plane..].iter_mut().zip(rgb.chunks_exact(3)) {
                *value = values[usize::from(pixel[from])];
            }
        }
    }
}
