//! The trained networks that come with this crate, one of each family, for the embedded image set.

const TEACHERS: [(&str, &[u8]); 5] = [
    ("alexnet-embedded", include_bytes!("../teachers/alexnet-embedded.safetensors")),
    ("densenet-embedded", include_bytes!("../teachers/densenet-embedded.safetensors")),
    ("googlenet-embedded", include_bytes!("../teachers/googlenet-embedded.safetensors")),
    ("resnet50-embedded", include_bytes!("../teachers/resnet50-embedded.safetensors")),
    ("vgg-embedded", include_bytes!("../teachers/vgg-embedded.safetensors")),
];

/// Returns the names of the [`variants`](crate::variants) whose trained weights come with this crate, sorted.
pub fn teachers() -> impl Iterator<Item = &'static str> {
    TEACHERS.iter().map(|(name, _)| *name)
}

/// Returns the model file (packed safetensors) of a trained FP32 network, or `None` where its weights do not come with this
/// crate.
pub fn teacher(name: &str) -> Option<&'static [u8]> {
    TEACHERS.iter().find(|(known, _)| *known == name).map(|(_, file)| *file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_variant_comes_with_its_weights() {
        let mut embedded: Vec<_> =
            crate::variants().iter().map(|v| v.name).filter(|n| n.ends_with("-embedded")).collect();
        embedded.sort_unstable();
        assert_eq!(teachers().collect::<Vec<_>>(), embedded);
        assert!(embedded.iter().all(|name| teacher(name).is_some()));
        assert!(teacher("resnet50").is_none());
    }
}
