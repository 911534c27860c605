use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::op::Shape;

/// The order of an image's channels that the network was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ChannelOrder {
    /// Red, green, blue (torchvision).
    #[default]
    Rgb,
    /// Blue, green, red (Caffe).
    Bgr,
    /// One channel, the luma of BT.601 as Pillow's `convert("L")` computes it,
    /// `(19595 R + 38470 G + 7471 B + 32768) / 65536` rounded down, from the decoded image before it is resized, as
    /// torchvision's `Grayscale` before `Resize` does.
    #[serde(alias = "gray")]
    Grey,
}

impl ChannelOrder {
    /// Returns the number of channels.
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

/// The size that an image is resized to, bilinear with antialias, as torchvision's `Resize` does with PIL images. Files have
/// a number or `[H, W]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or [height, width]")]
pub enum Resize {
    /// The size of the shorter side; the longer one keeps the proportions (`Resize(n)`).
    Shorter(usize),
    /// Height and width, whatever the proportions were (`Resize((h, w))`).
    Exact([usize; 2]),
}

/// How a decoded image becomes the network's input: it is resized, cropped at the centre and normalised.
///
/// A `pixel` of channel `c`, 0 to 255, becomes `(pixel / divide - mean[c]) / std[c]`. The channels of `mean` and `std` are in
/// the order that `order` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct Preprocess {
    /// The size that images are resized to; `None` keeps their size.
    #[serde(default)]
    pub resize: Option<Resize>,
    /// The height and width of the centre crop, which is the network's input; `None` keeps the size. Files have one number
    /// where the two are equal.
    #[serde(default, with = "side")]
    pub crop: Option<[usize; 2]>,
    /// The order of the channels.
    #[serde(default)]
    pub order: ChannelOrder,
    /// The number that pixels are divided by: 255 for networks trained on 0 to 1, 1 for Caffe's 0 to 255.
    #[serde(default = "two_five_five")]
    pub divide: f32,
    /// The mean of each channel, which is subtracted.
    pub mean: Vec<f32>,
    /// The standard deviation of each channel, which values are divided by.
    pub std: Vec<f32>,
}

fn two_five_five() -> f32 {
    255.0
}

/// Reads and writes a size `[H, W]`, as one number where the two are equal.
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
        // Because of `remote`, this is the derived function, not a recursion.
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
    /// The longest side that an image may be resized or cropped to.
    pub const MAX_SIDE: usize = 4096;

    /// Returns torchvision's preprocessing for ImageNet: shorter side 256, centre crop 224, ImageNet's mean and standard
    /// deviation.
    pub fn imagenet() -> Self {
        Self { resize: Some(Resize::Shorter(256)), crop: Some([224; 2]), ..Self::imagenet_statistics() }
    }

    /// Returns ImageNet's mean and standard deviation without a size (for CIFAR-10 networks and the embedded images).
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

    /// Returns the preprocessing to one channel of -1 to 1 without a size: torchvision's `Grayscale` and
    /// `Normalize(0.5, 0.5)`.
    pub fn grey() -> Self {
        Self { order: ChannelOrder::Grey, mean: vec![0.5], std: vec![0.5], ..Self::imagenet_statistics() }
    }

    /// Returns the preprocessing that keeps pixels as they are, 0 to 255, without a size.
    pub fn bytes(order: ChannelOrder) -> Self {
        let channels = order.channels();
        Self { resize: None, crop: None, order, divide: 1.0, mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// Returns the number of channels of the network's input.
    pub fn channels(&self) -> usize {
        self.order.channels()
    }

    /// Checks that images can be preprocessed.
    ///
    /// # Errors
    /// A text that names what is wrong: a number of means or deviations that is not that of channels, a divisor of 0, a
    /// value that is not finite, or a size that is 0 or above [`Self::MAX_SIDE`].
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

    /// Says what makes it doubtful that values are as they were in training: means or deviations that are those of pixels of 0 to 255,
    /// of pixels that are divided before, or the other way round.
    pub fn doubt(&self) -> Option<String> {
        let most = self.mean.iter().chain(&self.std).fold(0.0f32, |most, value| most.max(value.abs()));
        let told = format!("a mean of {:?} and a deviation of {:?}", self.mean, self.std);
        if self.divide >= 128.0 && most > 4.0 {
            return Some(format!("{told} are those of pixels of 0 to 255, but pixels are divided by {}", self.divide));
        }
        let least = self.std.iter().fold(f32::INFINITY, |least, value| least.min(value.abs()));
        (self.divide == 1.0 && least < 0.5)
            .then(|| format!("{told} are those of pixels of 0 to 1, but they are 0 to 255"))
    }

    /// Fills in the sizes that are `None` so that every image becomes an input of this shape: a square input as torchvision's
    /// `Resize` and `CenterCrop` to its side make it, any other one as `Resize((h, w))` makes it.
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

    /// Returns the part that changes values, as a table for each channel.
    ///
    /// # Panics
    /// If there is not one mean and one deviation for each channel, which [`check`](Self::check) would tell.
    pub fn normaliser(&self) -> Normaliser {
        assert_eq!([self.mean.len(), self.std.len()], [self.channels(); 2], "one mean and deviation a channel");
        let value = |c: usize, byte: usize| (byte as f32 / self.divide - self.mean[c]) / self.std[c];
        let table = |c| std::array::from_fn(|byte| value(c, byte));
        Normaliser { values: (0..self.channels()).map(table).collect(), order: self.order }
    }
}

/// Turns pixels of an image of the network's size into its input: `(pixel / divide - mean[c]) / std[c]`, rounded after each
/// operation, as torchvision's `ToTensor` and `Normalize` do.
#[derive(Debug, Clone, PartialEq)]
pub struct Normaliser {
    /// The normalised value of each `[channel of the network][byte]`.
    values: Vec<[f32; 256]>,
    order: ChannelOrder,
}

impl Normaliser {
    /// Returns the number of channels of an image.
    pub fn channels(&self) -> usize {
        self.values.len()
    }

    /// Returns the least and the largest value of each channel.
    pub fn ranges(&self) -> Vec<[f32; 2]> {
        // Where a deviation is negative, a brighter pixel has the smaller value.
        self.values.iter().map(|values| [values[0].min(values[255]), values[0].max(values[255])]).collect()
    }

    /// Turns bytes `[H, W, C]`, red, green, blue or grey, into values `[C, H, W]` in the network's channel order.
    ///
    /// # Panics
    /// If `out` is not as long as `pixels`.
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

    /// Turns values `[C, H, W]` back into bytes `[H, W, 3]`, red, green, blue, to be looked at. Grey ones are three times the same;
    /// values between those of two bytes, or beyond them, become the nearest byte.
    pub fn rgb(&self, values: &[f32]) -> Vec<u8> {
        let channels = self.channels();
        let plane = values.len() / channels;
        let byte = |channel: usize, value: f32| {
            let [low, high] = [self.values[channel][0], self.values[channel][255]];
            // A float becomes the nearest number of its type; NaN becomes 0.
            ((value - low) / (high - low) * 255.0).round() as u8
        };
        let from = |colour: usize| match self.order {
            ChannelOrder::Rgb => colour,
            ChannelOrder::Bgr => 2 - colour,
            ChannelOrder::Grey => 0,
        };
        (0..plane).flat_map(|at| [0, 1, 2].map(|c| byte(from(c), values[from(c) * plane + at]))).collect()
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
    fn numbers_of_the_other_range_of_pixels_are_doubtful() {
        let of =
            |divide, mean: f32, std: f32| Preprocess { divide, mean: vec![mean], std: vec![std], ..Preprocess::grey() };
        for sane in [
            of(255.0, 0.45, 0.22),
            of(1.0, 104.0, 1.0),
            of(1.0, 127.0, 128.0),
            of(255.0, 0.0, 1.0),
            of(127.5, 1.0, 1.0),
        ] {
            assert_eq!(sane.doubt(), None, "{sane:?}");
        }
        assert!(of(255.0, 76.0, 63.0).doubt().unwrap().contains("divided by 255"));
        assert!(of(1.0, 0.45, 0.22).doubt().unwrap().contains("0 to 255"));
    }

    #[test]
    fn values_become_the_bytes_that_they_were_made_of() {
        let bytes: Vec<u8> = (0..=255).flat_map(|v: u8| [v, v.wrapping_mul(7), 255 - v]).collect();
        let bgr = Preprocess { order: ChannelOrder::Bgr, ..Preprocess::imagenet() };
        for preprocess in [Preprocess::imagenet(), bgr, Preprocess { divide: 1.0, ..Preprocess::imagenet() }] {
            let normaliser = preprocess.normaliser();
            let mut values = vec![0.0; bytes.len()];
            normaliser.apply(&bytes, &mut values);
            assert_eq!(normaliser.rgb(&values), bytes);
        }
        // 0 is halfway between black and white, -9 beyond black.
        assert_eq!(Preprocess::grey().normaliser().rgb(&[0.0, -9.0, 1.0]), [128, 128, 128, 0, 0, 0, 255, 255, 255]);
    }

    #[test]
    fn grey_has_one_table() {
        let mut out = [0.0; 2];
        // (255 / 255 - 0.5) / 0.5, (0 / 255 - 0.5) / 0.5
        Preprocess::grey().normaliser().apply(&[255, 0], &mut out);
        assert_eq!(out, [1.0, -1.0]);
    }
}
