//! The recipes of `configs/` and the weights of the embedded networks, which travel in the binary.
use files::FileError;
use model::Model;

include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// Returns the names of all recipes, sorted: their paths in `configs/` without `.toml`.
pub fn recipes() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|(name, _)| *name)
}

/// Returns the text of a recipe.
pub fn recipe(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Returns the network of this name with its weights; `None` where the binary does not have it.
pub fn teacher(name: &str) -> Option<Result<Model, FileError>> {
    zoo::teacher(name).map(files::from_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_network_comes_with_its_weights() {
        for name in zoo::teachers() {
            assert_eq!(teacher(name).unwrap().unwrap().graph().name(), name);
        }
        assert!(recipe("resnet50_4bit").unwrap().contains("model = \"resnet50-embedded\""));
        assert!(recipe("imagenet/resnet50_4bit").is_some());
    }
}
