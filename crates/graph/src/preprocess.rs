use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::op::Shape;

/// Order of an image's channels as the network was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red, green, blue (torchvision).
    #[default]
    Rgb,
    /// Blue, green, red (Caffe).
    Bgr,
    /// One channel, the luma of BT.601 that Pillow's `convert("L")` gives:
    /// `(19595 R + 38470 G + 7471 B + 32768) / 65536`, rounded down, of the decoded image before it is resized, as
    /// torchvision's `Grayscale` before `Resize` has it.
    #[serde(alias = "gray")]
    Grey,
}

impl ChannelOrder {
    /// Number of channels.
    pub fn channels(self) -> usize {
        match self {
            Self::Rgb | Self::Bgr => 3,
            Self::Grey => 1,
        }
    }
}

impl fmt::Display for ChannelOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rgb => "rgb",
            Self::Bgr => "bgr",
            Self::Grey => "grey",
        })
    }
}

/// What an image is resized to: bilinear with antialias, as torchvision's `Resize` on PIL images. A number or `[H, W]` in
/// files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or [height, width]")]
pub enum Resize {
    /// The shorter side becomes this, the longer one keeps the proportions (`Resize(n)`).
    Shorter(usize),
    /// Height and width become these, whatever the proportions were (`Resize((h, w))`).
    Exact([usize; 2]),
}

/// From a decoded image to the network's input: resize, centre crop, scale, normalise.
///
/// Value of channel `c`: `(pixel / divide - mean[c]) / std[c]`, `pixel` in 0..=255; `mean` and `std` are in the order of
/// `order`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Preprocess {
    /// What it is resized to; `None` keeps the size.
    #[serde(default)]
    pub resize: Option<Resize>,
    /// Height and width of the centre crop, which is the network's input; `None` keeps the size. One number in files where
    /// the two are equal.
    #[serde(default, with = "side")]
    pub crop: Option<[usize; 2]>,
    /// Channel order.
    #[serde(default)]
    pub order: ChannelOrder,
    /// 255 for networks trained on 0..1, 1 for Caffe's 0..255.
    #[serde(default = "two_five_five")]
    pub divide: f32,
    /// Subtracted, one a channel.
    pub mean: Vec<f32>,
    /// Divided by, one a channel.
    pub std: Vec<f32>,
}

fn two_five_five() -> f32 {
    255.0
}

/// `[H, W]`, one number where the two are equal.
mod side {
    use super::{Deserialize, Deserializer, Resize, Serialize, Serializer};

    pub fn serialize<S: Serializer>(size: &Option<[usize; 2]>, serializer: S) -> Result<S::Ok, S::Error> {
        let written = size.map(|[h, w]| if h == w { Resize::Shorter(h) } else { Resize::Exact([h, w]) });
        written.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[usize; 2]>, D::Error> {
        Ok(Option::<Resize>::deserialize(deserializer)?.map(|read| match read {
            Resize::Shorter(side) => [side, side],
            Resize::Exact(size) => size,
        }))
    }
}

impl Serialize for Preprocess {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // The derived function, which `remote` makes one of the type's own.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Preprocess {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Self::deserialize(deserializer)?;
        read.check().map_err(serde::de::Error::custom)?;
        Ok(read)
    }
}

impl Preprocess {
    /// Longest side of a network's input.
    pub const MAX_SIDE: usize = 4096;

    /// torchvision's for ImageNet: shorter side 256, centre crop 224, ImageNet mean and standard deviation.
    pub fn imagenet() -> Self {
        Self { resize: Some(Resize::Shorter(256)), crop: Some([224; 2]), ..Self::imagenet_statistics() }
    }

    /// ImageNet mean and standard deviation, size kept (CIFAR-10 networks and the embedded set).
    pub fn imagenet_statistics() -> Self {
        Self {
            resize: None,
            crop: None,
            order: ChannelOrder::Rgb,
            divide: 255.0,
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        }
    }

    /// One channel of -1..1, size kept: torchvision's `Grayscale` and `Normalize(0.5, 0.5)`.
    pub fn grey() -> Self {
        Self { order: ChannelOrder::Grey, mean: vec![0.5], std: vec![0.5], ..Self::imagenet_statistics() }
    }

    /// Bytes as they are, 0 to 255, size kept.
    pub fn bytes(order: ChannelOrder) -> Self {
        let channels = order.channels();
        Self { resize: None, crop: None, order, divide: 1.0, mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// Channels of the network's input.
    pub fn channels(&self) -> usize {
        self.order.channels()
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// Another number of means or deviations than there are channels; a divisor that is 0, a value that is not finite; a
    /// size that is 0 or above [`Self::MAX_SIDE`].
    pub fn check(&self) -> Result<(), String> {
        let usable = |value: f32| value.is_finite() && value != 0.0;
        let channels = self.channels();
        for (what, values) in [("means", &self.mean), ("standard deviations", &self.std)] {
            if values.len() != channels {
                return Err(format!("{} {what} for the {channels} channels of `{}`", values.len(), self.order));
            }
        }
        if !usable(self.divide) {
            return Err(format!("divide is {}", self.divide));
        }
        if let Some(std) = self.std.iter().find(|&&std| !usable(std)) {
            return Err(format!("a standard deviation is {std}"));
        }
        if self.mean.iter().any(|mean| !mean.is_finite()) {
            return Err("a mean is not finite".to_owned());
        }
        let resized = self.resize.map(|resize| match resize {
            Resize::Shorter(side) => [side, side],
            Resize::Exact(size) => size,
        });
        match resized.into_iter().chain(self.crop).flatten().find(|side| !(1..=Self::MAX_SIDE).contains(side)) {
            Some(side) => Err(format!("a size is {side}: sizes are 1 to {}", Self::MAX_SIDE)),
            None => Ok(()),
        }
    }

    /// What makes the network's input of every image: sizes that are not said are filled in. A square input is what
    /// torchvision's `Resize` and `CenterCrop` of its side make, any other one what `Resize((h, w))` makes.
    pub fn fitted(&self, input: Shape) -> Self {
        let size = [input.height, input.width];
        let (resize, crop) = match (self.resize, self.crop) {
            (None, None) if input.height == input.width => (Some(Resize::Shorter(input.height)), Some(size)),
            (None, None) => (Some(Resize::Exact(size)), None),
            (Some(Resize::Shorter(side)), None) => (Some(Resize::Shorter(side)), Some(size)),
            said => said,
        };
        Self { resize, crop, ..self.clone() }
    }

    /// The part of it that changes values, with a table for each channel.
    ///
    /// # Panics
    /// Unless there is a mean and a deviation for each channel: see [`check`](Self::check).
    pub fn normaliser(&self) -> Normaliser {
        assert_eq!([self.mean.len(), self.std.len()], [self.channels(); 2], "one mean and deviation a channel");
        let value = |c: usize, byte: usize| (byte as f32 / self.divide - self.mean[c]) / self.std[c];
        let table = |c| std::array::from_fn(|byte| value(c, byte));
        Normaliser { values: (0..self.channels()).map(table).collect(), order: self.order }
    }
}

/// From decoded pixels of the network's size to its input: `(pixel / divide - mean[c]) / std[c]` in that order of rounding,
/// as torchvision's `ToTensor` and `Normalize` do.
#[derive(Debug, Clone, PartialEq)]
pub struct Normaliser {
    /// `[channel of the network][byte]` to the normalised value.
    values: Vec<[f32; 256]>,
    order: ChannelOrder,
}

impl Normaliser {
    /// Channels of an image.
    pub fn channels(&self) -> usize {
        self.values.len()
    }

    /// `[H, W, C]` bytes, red, green, blue or grey, to `[C, H, W]` in the network's channel order.
    ///
    /// # Panics
    /// Unless `out` is as long as `pixels`.
    pub fn apply(&self, pixels: &[u8], out: &mut [f32]) {
        assert_eq!(pixels.len(), out.len(), "a value for each byte");
        let channels = self.channels();
        let plane = out.len() / channels;
        for (channel, values) in self.values.iter().enumerate() {
            let from = match self.order {
                ChannelOrder::Rgb | ChannelOrder::Grey => channel,
                ChannelOrder::Bgr => 2 - channel,
            };
            for (value, pixel) in out[channel * plane..].iter_mut().zip(pixels.chunks_exact(channels)) {
                *value = values[usize::from(pixel[from])];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn square_sizes_are_one_number_in_files() {
        let text = r#"{"resize":256,"crop":224,"order":"bgr","divide":1.0,"mean":[1.0,2.0,3.0],"std":[1.0,1.0,1.0]}"#;
        let read: Preprocess = serde_json::from_str(text).unwrap();
        assert_eq!((read.resize, read.crop), (Some(Resize::Shorter(256)), Some([224, 224])));
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let text = r#"{"resize":[48,192],"crop":[48,160],"order":"grey","divide":255.0,"mean":[0.5],"std":[0.5]}"#;
        let read: Preprocess = serde_json::from_str(text).unwrap();
        assert_eq!((read.resize, read.crop), (Some(Resize::Exact([48, 192])), Some([48, 160])));
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let absent: Preprocess = toml::from_str("order = \"gray\"\nmean = [0.5]\nstd = [0.5]").unwrap();
        assert_eq!(absent, Preprocess::grey());
    }

    #[test]
    fn what_cannot_be_used_is_not_read() {
        let refused = |text: &str| serde_json::from_str::<Preprocess>(text).unwrap_err().to_string();
        let cases = [
            (r#"{"mean":[0.5],"std":[0.5]}"#, "1 means for the 3 channels of `rgb`"),
            (r#"{"order":"grey","mean":[0.5],"std":[0.5,1,1]}"#, "3 standard deviations for the 1 channels of `grey`"),
            (r#"{"mean":[0,0,0],"std":[1,0,1]}"#, "a standard deviation is 0"),
            (r#"{"divide":0,"mean":[0,0,0],"std":[1,1,1]}"#, "divide is 0"),
            (r#"{"crop":[0,5],"mean":[0,0,0],"std":[1,1,1]}"#, "a size is 0: sizes are 1 to 4096"),
            (r#"{"resize":4097,"mean":[0,0,0],"std":[1,1,1]}"#, "a size is 4097: sizes are 1 to 4096"),
        ];
        for (text, expected) in cases {
            assert!(refused(text).starts_with(expected), "{text}: {}", refused(text));
        }
    }

    #[test]
    fn sizes_that_are_not_said_follow_the_input() {
        let sizes = |preprocess: &Preprocess, [h, w]: [usize; 2]| {
            let fitted = preprocess.fitted(Shape::new(3, h, w));
            (fitted.resize, fitted.crop)
        };
        let bare = Preprocess::imagenet_statistics();
        assert_eq!(sizes(&bare, [32, 32]), (Some(Resize::Shorter(32)), Some([32, 32])));
        assert_eq!(sizes(&bare, [48, 192]), (Some(Resize::Exact([48, 192])), None));
        let resized = Preprocess { resize: Some(Resize::Shorter(40)), ..bare };
        assert_eq!(sizes(&resized, [32, 48]), (Some(Resize::Shorter(40)), Some([32, 48])));
        assert_eq!(Preprocess::imagenet().fitted(Shape::new(3, 224, 224)), Preprocess::imagenet());
    }

    #[test]
    fn grey_has_one_table() {
        let mut out = [0.0; 2];
        // (255 / 255 - 0.5) / 0.5, (0 / 255 - 0.5) / 0.5
        Preprocess::grey().normaliser().apply(&[255, 0], &mut out);
        assert_eq!(out, [1.0, -1.0]);
    }
}
