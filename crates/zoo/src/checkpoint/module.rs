//! The settings of layers that a whole pickled module holds beside its parameters.
use graph::Op;

use super::object::{Arena, Id, Object};

/// The attributes of modules that change what a layer computes and that no shape of a parameter tells.
const SETTINGS: [&str; 4] = ["stride", "padding", "dilation", "eps"];

/// The settings of one layer.
#[derive(Debug, Clone)]
pub(super) struct ModuleSettings {
    /// The path of its module.
    pub(super) path: String,
    settings: Vec<(&'static str, Vec<f64>)>,
}

impl ModuleSettings {
    /// Reads the settings among the attributes of a module, if there are any.
    pub(super) fn read(arena: &Arena, path: &str, attributes: &[(String, Id)]) -> Option<Self> {
        let value = |name: &str| {
            let &(_, id) = attributes.iter().find(|(key, _)| key == name)?;
            let number = |id| match *arena.get(id) {
                Object::Float(value) => Some(value),
                _ => arena.int(id).map(|value| value as f64),
            };
            match arena.sequence(id) {
                Some(items) => items.iter().take(4).map(|&item| number(item)).collect(),
                None => number(id).map(|value| vec![value]),
            }
        };
        let settings: Vec<_> = SETTINGS.into_iter().filter_map(|name| Some((name, value(name)?))).collect();
        (!settings.is_empty()).then(|| Self { path: path.to_owned(), settings })
    }

    /// Says how the settings differ from those of a graph's layer, for example `stride [1, 1], not [2, 2]`.
    pub(super) fn difference(&self, op: &Op) -> Option<String> {
        let pair = |sides: [usize; 2]| sides.map(|side| side as f64).to_vec();
        let wanted = |name: &str| match (op, name) {
            (Op::Conv2d(conv), "stride") => Some(pair(conv.stride)),
            (Op::Conv2d(conv), "padding") => Some(pair(conv.padding)),
            (Op::Conv2d(conv), "dilation") => Some(pair(conv.dilation)),
            (Op::BatchNorm2d { eps, .. }, "eps") => Some(vec![*eps]),
            _ => None,
        };
        self.settings.iter().find_map(|(name, found)| {
            let wanted = wanted(name)?;
            let same = match found[..] {
                [one] => wanted.iter().all(|&side| side == one),
                _ => wanted == *found,
            };
            (!same).then(|| format!("{name} {found:?}, not {wanted:?}"))
        })
    }
}
