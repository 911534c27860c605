use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::preprocess::{ChannelOrder, Preprocess, Resize};

/// A size of an image, or `none`, which keeps the size that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, [height, width], or \"none\"")]
pub enum Said {
    /// A size: one number or `[H, W]`.
    Size(Resize),
    /// No size, written `"none"`.
    Not(Not),
}

/// The word `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Not {
    /// The word itself.
    None,
}

impl Said {
    /// The value that is written `"none"`.
    pub const NONE: Self = Self::Not(Not::None);

    fn size(self) -> Option<Resize> {
        match self {
            Self::Size(size) => Some(size),
            Self::Not(_) => None,
        }
    }
}

/// Settings of a network's input, for a network whose file lacks them or has wrong ones. A field that is `None` changes
/// nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct ImageConfig {
    /// The height and width of the input, one number if it is square, for a network that leaves them open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Resize>,
    /// The size that images are resized to; a single number is that of the shorter side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Said>,
    /// The height and width of the centre crop, one number if it is square.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Said>,
    /// The order of the channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<ChannelOrder>,
    /// The number that pixels, 0 to 255, are divided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub divide: Option<f32>,
    /// The mean that is then subtracted: one value for each channel, or one for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f32>>,
    /// The standard deviation that values are then divided by: one for each channel, or one for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f32>>,
}

impl Serialize for ImageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Because of `remote`, this is the derived function, not a recursion.
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ImageConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Self::deserialize(deserializer)?;
        read.check().map_err(serde::de::Error::custom)?;
        Ok(read)
    }
}

impl ImageConfig {
    /// Checks the values that are wrong for every network.
    ///
    /// # Errors
    /// A text that names the field.
    fn check(&self) -> Result<(), String> {
        let said = |said: Option<Said>| said.and_then(Said::size);
        let sizes = [("input", self.input), ("resize", said(self.resize)), ("crop", said(self.crop))];
        for (key, size) in sizes {
            if size.is_some_and(|size| both(size).iter().any(|side| !(1..=Preprocess::MAX_SIDE).contains(side))) {
                return Err(format!("`{key}` is not of 1 to {} pixels", Preprocess::MAX_SIDE));
            }
        }
        let positive = |value: f32| value.is_finite() && value > 0.0;
        if self.divide.is_some_and(|divide| !positive(divide)) {
            return Err("`divide` is not above 0".to_owned());
        }
        for (key, values) in [("mean", &self.mean), ("std", &self.std)] {
            let Some(values) = values else { continue };
            if ![1, 3].contains(&values.len()) {
                return Err(format!("`{key}` has {} values: one for all channels, or three", values.len()));
            }
            let usable = if key == "std" { positive } else { f32::is_finite };
            if !values.iter().all(|&value| usable(value)) {
                return Err(format!("`{key}` has a value that cannot be used"));
            }
        }
        Ok(())
    }

    /// Tells whether all fields are `None`.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Tells whether a field is set that changes pixel values.
    pub fn says_values(&self) -> bool {
        self.mean.is_some() || self.std.is_some() || self.order.is_some() || self.divide.is_some()
    }

    /// Tells whether a field is set that says to what sizes images are brought.
    pub fn says_sizes(&self) -> bool {
        self.resize.is_some() || self.crop.is_some()
    }

    /// Returns the height and width of the input.
    pub fn input(&self) -> Option<[usize; 2]> {
        self.input.map(both)
    }

    /// Applies the settings to the preprocessing of a network whose input has `channels` channels. A network of one channel
    /// takes grey images.
    ///
    /// # Errors
    /// A text that says which order, mean or deviation does not fit the number of channels, or what
    /// [`Preprocess::check`] refuses.
    pub fn apply(&self, preprocess: &mut Preprocess, channels: usize) -> Result<(), String> {
        if channels == 1 && preprocess.channels() != 1 {
            let Preprocess { order, mean, std, .. } = Preprocess::grey();
            *preprocess = Preprocess { order, mean, std, ..preprocess.clone() };
        }
        if let Some(order) = self.order {
            if order.channels() != channels {
                return Err(format!("order `{order}` has {} channels, the network takes {channels}", order.channels()));
            }
            preprocess.order = order;
        }
        for (what, said, values) in
            [("mean", &self.mean, &mut preprocess.mean), ("std", &self.std, &mut preprocess.std)]
        {
            match said.as_deref() {
                None => {}
                Some(&[one]) => *values = vec![one; channels],
                Some(each) if each.len() == channels => *values = each.to_vec(),
                Some(each) => {
                    return Err(format!("{what} has {} values, the network takes {channels} channels", each.len()));
                }
            }
        }
        preprocess.divide = self.divide.unwrap_or(preprocess.divide);
        preprocess.resize = self.resize.map_or(preprocess.resize, Said::size);
        preprocess.crop = self.crop.map_or(preprocess.crop, |crop| crop.size().map(both));
        preprocess.check()
    }
}

/// Returns height and width; one number stands for both.
fn both(size: Resize) -> [usize; 2] {
    match size {
        Resize::Shorter(side) => [side; 2],
        Resize::Exact(size) => size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str, mut preprocess: Preprocess, channels: usize) -> Result<Preprocess, String> {
        let config: ImageConfig = toml::from_str(text).unwrap();
        config.apply(&mut preprocess, channels).map(|()| preprocess)
    }

    #[test]
    fn what_is_said_changes() {
        let text = "resize = [48, 192]\ncrop = \"none\"\nmean = [0.5]\norder = \"bgr\"";
        let expected = Preprocess {
            resize: Some(Resize::Exact([48, 192])),
            crop: None,
            order: ChannelOrder::Bgr,
            mean: vec![0.5; 3],
            ..Preprocess::imagenet()
        };
        assert_eq!(applied(text, Preprocess::imagenet(), 3), Ok(expected));
        assert_eq!(applied("", Preprocess::imagenet(), 3), Ok(Preprocess::imagenet()));
        let cropped = Preprocess { crop: Some([32, 32]), ..Preprocess::grey() };
        assert_eq!(applied("crop = 32", Preprocess::grey(), 1), Ok(cropped));
    }

    #[test]
    fn a_network_of_one_channel_takes_grey_images() {
        let sizes = Preprocess { resize: Some(Resize::Shorter(256)), crop: Some([224; 2]), ..Preprocess::grey() };
        assert_eq!(applied("", Preprocess::imagenet(), 1), Ok(sizes));
        let refused = |text, channels| applied(text, Preprocess::imagenet(), channels).unwrap_err();
        assert_eq!(refused("order = \"rgb\"", 1), "order `rgb` has 3 channels, the network takes 1");
        assert_eq!(refused("order = \"grey\"", 3), "order `grey` has 1 channels, the network takes 3");
        assert_eq!(refused("mean = [0, 0, 0]", 1), "mean has 3 values, the network takes 1 channels");
        let unread = |text: &str| toml::from_str::<ImageConfig>(text).unwrap_err().message().to_owned();
        assert_eq!(unread("std = [0]"), "`std` has a value that cannot be used");
        assert_eq!(unread("mean = [0, 1]"), "`mean` has 2 values: one for all channels, or three");
        assert_eq!(unread("crop = [0, 5]"), "`crop` is not of 1 to 4096 pixels");
        assert_eq!(unread("resize = \"no\""), "expected a number, [height, width], or \"none\"");
    }
}
