//! Gives tensors the paths that they have in the plain network: leaves out the wrappers that training puts around modules,
//! and joins the parts into which pruning and normalisation split a weight.
use std::collections::HashMap;

use super::content::TensorEntry;
use super::tensor::Stored;

/// The names of wrapping modules at any place in a path: `DataParallel`, `torch.compile`, FSDP, activation checkpoints.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// A tensor under its plain path.
#[derive(Debug)]
pub(super) struct Named {
    /// The plain path.
    pub(super) path: String,
    /// The path in the file.
    pub(super) original: String,
    /// The number of the dictionary or module tree that contains the tensor.
    pub(super) group: usize,
    pub(super) tensor: Stored,
}

/// Gives every tensor its plain path.
pub(super) fn plain(entries: Vec<TensorEntry>) -> Vec<Named> {
    let mut names: Vec<Named> = entries
        .into_iter()
        .map(|TensorEntry { path, group, tensor }| Named { path: unwrapped(&path), original: path, group, tensor })
        .collect();
    let mut uses: HashMap<String, usize> = HashMap::new();
    for name in &names {
        *uses.entry(name.path.clone()).or_default() += 1;
    }
    for name in &mut names {
        if uses[&name.path] > 1 {
            name.path.clone_from(&name.original);
        }
        if let Some(new) = densenet_name(&name.path) {
            name.path = new;
        }
    }
    assemble(names)
}

/// Returns a path without wrapping modules.
pub(super) fn unwrapped(path: &str) -> String {
    path.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// Rewrites `...denselayer1.norm.1.weight` to `...denselayer1.norm1.weight`. Torchvision's DenseNet files were written when
/// the names of modules could hold a point.
fn densenet_name(name: &str) -> Option<String> {
    let (at, _) = name.match_indices("denselayer").last()?;
    let parts: Vec<&str> = name[at..].split('.').collect();
    match parts[..] {
        [layer, kind @ ("norm" | "relu" | "conv"), index @ ("1" | "2"), role] => {
            Some(format!("{}{layer}.{kind}{index}.{role}", &name[..at]))
        }
        _ => None,
    }
}

/// Joins the weights that are stored in parts.
fn assemble(names: Vec<Named>) -> Vec<Named> {
    let at: HashMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (name.path.as_str(), i)).collect();
    let mut parts = vec![false; names.len()];
    let mut whole = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let Some((path, tensor, used)) = together(&name.path, &names, &at) else { continue };
        if at.contains_key(path.as_str()) {
            continue;
        }
        used.into_iter().for_each(|part| parts[part] = true);
        parts[i] = true;
        whole.push(Named { path, original: name.original.clone(), group: name.group, tensor });
    }
    let rest = names.into_iter().zip(parts).filter(|(_, part)| !part).map(|(name, _)| name);
    rest.chain(whole).collect()
}

/// Returns the weight of which the tensor at `path` is the main part: its path, the weight, and its other parts.
fn together(path: &str, names: &[Named], at: &HashMap<&str, usize>) -> Option<(String, Stored, Vec<usize>)> {
    let tensor = |i: usize| names[i].tensor.clone();
    let own = tensor(at[path]);
    let find = |path: String| at.get(path.as_str()).copied();
    if let Some(base) = path.strip_suffix("_orig") {
        if let Some(mask) = find(format!("{base}_mask")) {
            return Some((base.to_owned(), Stored::pruned(own, tensor(mask)), vec![mask]));
        }
        let (u, v) = (find(format!("{base}_u"))?, find(format!("{base}_v"))?);
        return Some((base.to_owned(), Stored::spectral_norm(own, tensor(u), tensor(v)), vec![u, v]));
    }
    if let Some(base) = path.strip_suffix("_v") {
        let g = find(format!("{base}_g"))?;
        return Some((base.to_owned(), Stored::weight_norm(tensor(g), own), vec![g]));
    }
    // The path is such as `fc.parametrizations.weight.original`.
    let (module, rest) = path.split_once("parametrizations.")?;
    let (name, part) = rest.split_once('.')?;
    let whole = format!("{module}{name}");
    let inner = |part: &str| find(format!("{module}parametrizations.{name}.{part}"));
    match part {
        "original1" => {
            let g = inner("original0")?;
            Some((whole, Stored::weight_norm(tensor(g), own), vec![g]))
        }
        "original" => match (inner("0._u"), inner("0._v")) {
            (Some(u), Some(v)) if inner("1.base").is_none() => {
                Some((whole, Stored::spectral_norm(own, tensor(u), tensor(v)), vec![u, v]))
            }
            _ => {
                let shape = own.shape.clone();
                Some((whole, Stored::unreadable(shape, "a parametrization of its own"), vec![]))
            }
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_densenet_names_are_torchvisions() {
        let cases = [
            ("features.denseblock1.denselayer1.norm.1.weight", Some("features.denseblock1.denselayer1.norm1.weight")),
            ("features.denseblock4.denselayer16.conv.2.weight", Some("features.denseblock4.denselayer16.conv2.weight")),
            ("features.denseblock1.denselayer1.norm1.weight", None),
            ("features.denseblock1.denselayer1.norm.3.weight", None),
            ("features.transition1.norm.weight", None),
        ];
        for (old, new) in cases {
            assert_eq!(densenet_name(old).as_deref(), new, "{old}");
        }
    }

    #[test]
    fn wrappers_go_wherever_they_stand() {
        let cases = [
            ("module.conv1.weight", "conv1.weight"),
            ("_orig_mod.module.conv1.weight", "conv1.weight"),
            ("layer1._checkpoint_wrapped_module.0.conv1.weight", "layer1.0.conv1.weight"),
            ("modules.conv1.weight", "modules.conv1.weight"),
        ];
        for (path, expected) in cases {
            assert_eq!(unwrapped(path), expected);
        }
    }
}
