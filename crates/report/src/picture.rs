use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use maud::{Markup, html};

/// A picture with what is said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The address of its pixels, which it holds.
    data: String,
    size: [usize; 2],
    /// What it shows, for those who do not see it.
    pub description: String,
    /// The lines below it.
    pub lines: Vec<String>,
}

impl Picture {
    /// Makes a picture of `rgb` bytes, row by row, `[height, width, 3]`.
    ///
    /// # Panics
    /// If there are not as many bytes as the size says, or none.
    pub fn new(rgb: &[u8], [height, width]: [usize; 2], description: String, lines: Vec<String>) -> Self {
        let mut png = Vec::new();
        let size = [width, height].map(|side| u32::try_from(side).expect("a side of a picture"));
        PngEncoder::new(&mut png)
            .write_image(rgb, size[0], size[1], ExtendedColorType::Rgb8)
            .expect("a picture that is in memory");
        let data = format!("data:image/png;base64,{}", STANDARD.encode(png));
        Self { data, size: [height, width], description, lines }
    }

    pub(crate) fn markup(&self) -> Markup {
        html! {
            figure.picture {
                img src=(self.data) alt=(self.description) height=(self.size[0]) width=(self.size[1]);
                figcaption { @for line in &self.lines { div { (line) } } }
            }
        }
    }
}
