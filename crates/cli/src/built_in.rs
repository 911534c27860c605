//! What travels in the binary, so that it works anywhere: the recipes of `configs/` and the weights of the embedded networks.
use graph::{Model, ModelError};

include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// Names of all recipes, sorted: paths in `configs/` without `.toml`.
pub fn recipes() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|(name, _)| *name)
}

/// The text of a recipe.
pub fn recipe(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Names of the networks that come with their weights.
pub fn teachers() -> impl Iterator<Item = &'static str> {
    TEACHERS.iter().map(|(name, _)| *name)
}

/// The network of this name with its weights; `None` where it does not come along.
pub fn teacher(name: &str) -> Option<Result<Model, ModelError>> {
    let (_, bytes) = TEACHERS.iter().find(|(known, _)| *known == name)?;
    Some(Model::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_network_comes_with_its_weights() {
        let embedded = zoo::variants().iter().map(|variant| variant.name).filter(|name| name.ends_with("-embedded"));
        for name in embedded {
            assert_eq!(teacher(name).unwrap().unwrap().graph.name(), name);
        }
        assert_eq!(teachers().count(), 5);
        assert!(recipe("resnet50_4bit").unwrap().contains("model = \"resnet50-embedded\""));
        assert!(recipe("imagenet/resnet50_4bit").is_some());
    }
}
