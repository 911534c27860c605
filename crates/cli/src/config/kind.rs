//! The two kinds of configs.
use std::fmt;

use toml::de::{DeTable, DeValue};

/// The command that a config is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigKind {
    /// The config is for `dsconv distill`.
    Distill,
    /// The config is for `dsconv train`.
    Train,
}

impl ConfigKind {
    /// Tells the command by the place of a recipe in its folder.
    pub fn of_name(name: &str) -> Self {
        if name.starts_with("train/") { Self::Train } else { Self::Distill }
    }

    /// Tells the command by the keys of a config's text, where they tell.
    pub fn of_text(text: &str) -> Option<Self> {
        let table = DeTable::parse(text).ok()?;
        let table = table.get_ref();
        let has = |keys: &[&str]| keys.iter().any(|key| table.contains_key(*key));
        let is_table = matches!(table.get("model").map(|model| model.get_ref()), Some(DeValue::Table(_)));
        let is_text = matches!(table.get("model").map(|model| model.get_ref()), Some(DeValue::String(_)));
        match (is_table || has(&["train", "start"]), is_text || has(&["quantize", "adapt", "export"])) {
            (true, false) => Some(Self::Train),
            (false, true) => Some(Self::Distill),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Distill => "distill",
            Self::Train => "train",
        })
    }
}
