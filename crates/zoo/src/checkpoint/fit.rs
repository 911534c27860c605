//! Finds the tensors of a checkpoint that are the parameters of a graph.
//!
//! The wrappers that training scripts put around a state dict and the prefixes that modules put before names are treated
//! alike: both are a prefix of the graph's names in the path of a tensor.
use std::collections::{BTreeMap, BTreeSet, HashMap};

use graph::{Graph, Op, WeightsError};

use super::module::ModuleSettings;
use super::names::{Named, unwrapped};
use crate::googlenet;

/// The names of tensors that training keeps and inference does not need, at any depth.
const BOOKKEEPING: [&str; 4] = ["num_batches_tracked", "total_ops", "total_params", "n_averaged"];
/// Words in the names of modules beside the network that take no part in inference.
const TRAINING: [&str; 8] = ["criterion", "loss", "metric", "accuracy", "acc", "confmat", "auroc", "f1"];
/// Words in the paths of averaged copies of a network.
const COPIES: [&str; 6] = ["ema", "swa", "averaged", "teacher", "momentum", "target"];
/// Parts of names in the graph, with the names that other implementations use for them.
const ALIASES: [(&str, &str); 1] = [(".downsample.", ".shortcut.")];

/// The tensors that were found for a graph.
#[derive(Debug)]
pub(super) struct FoundTensors<'a> {
    /// The tensors by the graph's names.
    pub(super) tensors: BTreeMap<String, &'a Named>,
    /// The prefix of the names in the file.
    pub(super) prefix: String,
    /// Remarks that a user should see.
    pub(super) notes: Vec<String>,
    /// The copy of the network that was taken, where the file has several.
    pub(super) choice: Option<String>,
    /// The tensors that were left out because inference never needs them.
    pub(super) dropped: Vec<String>,
    /// The differences in names and shapes.
    pub(super) differences: WeightsError,
}

impl FoundTensors<'_> {
    /// Returns whether names and shapes are those of the graph.
    pub(super) fn fits(&self) -> bool {
        let WeightsError { missing, unexpected, wrong_shape, .. } = &self.differences;
        missing.is_empty() && unexpected.is_empty() && wrong_shape.is_empty()
    }
}

/// The tensors of a file by their plain paths.
#[derive(Debug)]
pub(super) struct Index<'a> {
    names: &'a [Named],
    at: HashMap<&'a str, usize>,
    /// The settings of layers by their plain paths.
    layers: HashMap<String, &'a ModuleSettings>,
}

/// The names and shapes of the parameters that a graph takes from a file, in the graph's order.
struct Wanted {
    /// The parameters before the classifier.
    body: Vec<(String, Vec<usize>)>,
    /// The parameters of the classifier.
    head: Vec<(String, Vec<usize>)>,
}

impl Wanted {
    fn of(graph: &Graph) -> Self {
        let head = graph.nodes().iter().rev().find(|node| matches!(node.op, Op::Linear { .. } | Op::Conv2d(_)));
        let head = head.map(|node| format!("{}.", node.name)).unwrap_or_default();
        let constant = format!("{}.", googlenet::TRANSFORM_INPUT);
        let params = graph.params().into_iter().map(|param| (param.name, param.shape));
        let params = params.filter(|(name, _)| !name.starts_with(&constant));
        let (head, body) = params.partition(|(name, _)| name.starts_with(&head));
        Self { body, head }
    }
}

impl<'a> Index<'a> {
    pub(super) fn new(names: &'a [Named], layers: &'a [ModuleSettings]) -> Self {
        let at = names.iter().enumerate().map(|(i, name)| (name.path.as_str(), i)).collect();
        let layers = layers.iter().map(|layer| (unwrapped(&layer.path), layer)).collect();
        Self { names, at, layers }
    }

    /// Finds the parameters of a graph, all of them or as many as the file has.
    pub(super) fn fit(&self, graph: &Graph) -> FoundTensors<'a> {
        let wanted = Wanted::of(graph);
        let mut prefixes = self.prefixes(&wanted);
        // The best prefix comes first; of equals, those of averaged copies come last.
        prefixes.sort_by_key(|prefix| {
            let (missing, wrong) = self.distance(prefix, &wanted);
            (missing, wrong, is_copy(prefix), prefix.matches('.').count(), prefix.len())
        });
        let prefix = prefixes.first().cloned().unwrap_or_default();
        let copies: Vec<String> =
            prefixes.into_iter().skip(1).filter(|prefix| self.distance(prefix, &wanted) == (0, 0)).collect();
        let mut fit = self.under(&prefix, &copies, &wanted, graph);
        if fit.fits() {
            fit.choice = self.choice(&fit, &copies, &wanted, graph);
        }
        fit
    }

    /// Returns the prefixes under which the file has most of the graph's names. They are those of its first parameters.
    fn prefixes(&self, wanted: &Wanted) -> Vec<String> {
        let mut found = BTreeSet::new();
        let all = || wanted.body.iter().chain(&wanted.head).map(|(name, _)| name.as_str());
        let count = all().count();
        // A wrong prefix has hardly any of a few parameters that are spread over the network.
        let sample: Vec<&str> = all().step_by(count.div_ceil(8).max(1)).collect();
        let has_most = |prefix: &str| {
            let missing = sample.iter().filter(|name| self.get(prefix, name).is_none());
            missing.take(sample.len() / 2 + 1).count() * 2 <= sample.len()
        };
        for anchor in all().take(2) {
            for name in self.names {
                let Some(prefix) = name.path.strip_suffix(anchor) else { continue };
                let whole = prefix.is_empty() || prefix.ends_with('.');
                if whole && !found.contains(prefix) && has_most(prefix) {
                    found.insert(prefix.to_owned());
                }
            }
        }
        found.into_iter().take(64).collect()
    }

    /// Finds a tensor by the graph's name, or by another implementation's name for it.
    fn get(&self, prefix: &str, name: &str) -> Option<usize> {
        let find = |name: &str| self.at.get(format!("{prefix}{name}").as_str()).copied();
        find(name).or_else(|| {
            let other = ALIASES.iter().find(|(ours, _)| name.contains(ours));
            other.and_then(|(ours, theirs)| find(&name.replace(ours, theirs)))
        })
    }

    /// Counts the parameters before the classifier that are missing and those that have another shape.
    fn distance(&self, prefix: &str, wanted: &Wanted) -> (usize, usize) {
        let found = wanted.body.iter().map(|(name, shape)| (self.get(prefix, name), shape));
        found.fold((0, 0), |(missing, wrong), (at, shape)| match at {
            None => (missing + 1, wrong),
            Some(at) => (missing, wrong + usize::from(self.names[at].tensor.shape != *shape)),
        })
    }

    /// Compares the tensors under a prefix with those that are wanted. `copies` are prefixes of further copies.
    fn under(&self, prefix: &str, copies: &[String], wanted: &Wanted, graph: &Graph) -> FoundTensors<'a> {
        let mut fit = FoundTensors {
            tensors: BTreeMap::new(),
            prefix: prefix.to_owned(),
            notes: vec![],
            choice: None,
            dropped: vec![],
            differences: WeightsError {
                graph: graph.name().into(),
                missing: vec![],
                unexpected: vec![],
                wrong_shape: vec![],
            },
        };
        let mut used = BTreeMap::new();
        for (name, _) in wanted.body.iter().chain(&wanted.head) {
            if let Some(at) = self.get(prefix, name) {
                used.insert(name.clone(), at);
            }
        }
        if wanted.head.iter().all(|(name, _)| !used.contains_key(name))
            && !wanted.body.is_empty()
            && let Some((module, found)) = self.head(prefix, wanted, &used)
        {
            fit.notes.push(format!("its classifier is `{module}`"));
            used.extend(found);
        }
        for (name, shape) in wanted.body.iter().chain(&wanted.head) {
            match used.get(name).map(|&at| &self.names[at]) {
                None => fit.differences.missing.push(name.clone()),
                Some(named) => {
                    if !same_shape(&named.tensor.shape, shape) {
                        let found = named.tensor.shape.clone();
                        fit.differences.wrong_shape.push((name.clone(), shape.clone(), found));
                    }
                    fit.tensors.insert(name.clone(), named);
                }
            }
        }
        let first = wanted.body.first().or(wanted.head.first());
        if let Some((name, named)) = first.and_then(|(name, _)| Some((name, fit.tensors.get(name)?))) {
            fit.prefix = named.original.strip_suffix(name.as_str()).unwrap_or(prefix).to_owned();
        }
        for node in graph.nodes() {
            let layer = self.layers.get(&format!("{prefix}{}", node.name));
            if let Some(difference) = layer.and_then(|layer| layer.difference(&node.op)) {
                fit.differences.unexpected.push(format!("{}: {difference}", node.name));
            }
        }
        self.rest(&mut fit, (prefix, copies), wanted, &used.into_values().collect());
        fit.differences.missing.sort();
        fit.differences.wrong_shape.sort();
        fit
    }

    /// Finds the only unused linear layer with as many inputs as the graph's classifier: its path, and its tensors by the
    /// graph's names.
    fn head(
        &self,
        prefix: &str,
        wanted: &Wanted,
        used: &BTreeMap<String, usize>,
    ) -> Option<(String, Vec<(String, usize)>)> {
        let [(weight, shape), (bias, _)] = &wanted.head[..] else { return None };
        let taken: BTreeSet<usize> = used.values().copied().collect();
        let groups: BTreeSet<usize> = taken.iter().map(|&at| self.names[at].group).collect();
        // The classifier may stand beside the prefix: `backbone.conv1` and `head.fc`.
        let near = prefix.trim_end_matches('.').rsplit_once('.').map_or("", |(above, _)| above);
        let module = |at: usize| {
            let name = &self.names[at];
            let rows = *name.tensor.shape.first()?;
            let module = name.path.strip_suffix(".weight").filter(|_| name.path.starts_with(near))?;
            let other = *self.at.get(format!("{module}.bias").as_str())?;
            let linear = matches!(name.tensor.shape[..], [_, features] if features == shape[1]);
            let near = groups.contains(&name.group) || !prefix.is_empty();
            (linear && near && !taken.contains(&at) && self.names[other].tensor.shape == [rows])
                .then(|| (module.to_owned(), vec![(weight.clone(), at), (bias.clone(), other)]))
        };
        let is_aux = |module: &str| module.rsplit('.').any(|part| part.starts_with("aux"));
        let mut found =
            (0..self.names.len()).filter_map(module).filter(|(module, _)| !is_copy(module) && !is_aux(module));
        let first = found.next()?;
        found.next().is_none().then_some(first)
    }

    /// Sorts the unused tensors into those that a user hears of, those that inference never needs, and those of another
    /// network.
    fn rest(
        &self,
        fit: &mut FoundTensors,
        (prefix, copies): (&str, &[String]),
        wanted: &Wanted,
        used: &BTreeSet<usize>,
    ) {
        let groups: BTreeSet<usize> = used.iter().map(|&at| self.names[at].group).collect();
        let own: BTreeSet<&str> = wanted.body.iter().filter_map(|(name, _)| name.split('.').next()).collect();
        let is_googlenet = own.contains("inception3a");
        let mut outside = Vec::new();
        for (at, name) in self.names.iter().enumerate() {
            if used.contains(&at) || !(groups.contains(&name.group) || used.is_empty()) {
                continue;
            }
            if name.path.rsplit('.').next().is_some_and(|last| BOOKKEEPING.contains(&last)) {
                fit.dropped.push(name.original.clone());
                continue;
            }
            if copies.iter().any(|copy| !prefix.starts_with(copy.as_str()) && name.path.starts_with(copy.as_str())) {
                continue;
            }
            let Some(inner) = name.path.strip_prefix(prefix) else {
                outside.push(name.original.clone());
                continue;
            };
            let module = inner.split('.').next().unwrap_or(inner);
            let parts = || module.split('_').map(str::to_lowercase);
            if is_googlenet && (module == "aux1" || module == "aux2") {
                fit.dropped.push(name.original.clone());
            } else if !own.contains(module)
                && parts().any(|part| TRAINING.contains(&part.as_str()) || COPIES.contains(&part.as_str()))
            {
                outside.push(name.original.clone());
            } else {
                fit.differences.unexpected.push(inner.to_owned());
            }
        }
        fit.differences.unexpected.sort();
        if !outside.is_empty() && !used.is_empty() {
            fit.notes.push(format!("left out, as they are not the network's: {}", some(&outside)));
        }
    }

    /// Says which of several copies was taken, unless all hold the same tensors.
    fn choice(&self, fit: &FoundTensors, copies: &[String], wanted: &Wanted, graph: &Graph) -> Option<String> {
        let others: Vec<String> = copies
            .iter()
            .map(|prefix| self.under(prefix, &[], wanted, graph))
            .filter(|other| {
                let same = |(name, tensor): (&String, &&Named)| {
                    fit.tensors.get(name).is_some_and(|taken| taken.tensor.is_same(&tensor.tensor))
                };
                !other.tensors.iter().all(same)
            })
            .map(|other| shown(&other.prefix))
            .collect();
        let taken = shown(&fit.prefix);
        (!others.is_empty())
            .then(|| format!("it holds the network more than once: {taken} is taken, not {}", others.join(", ")))
    }
}

/// Names the place of a prefix for a message.
fn shown(prefix: &str) -> String {
    match prefix.trim_end_matches('.') {
        "" => "the one at the top".to_owned(),
        prefix => format!("`{prefix}`"),
    }
}

/// Returns whether a path names an averaged copy.
fn is_copy(path: &str) -> bool {
    path.split(['.', '_']).any(|part| COPIES.contains(&part.to_lowercase().as_str()))
}

/// Returns whether shapes are equal, or the weight of a linear layer is stored as that of a 1x1 convolution.
fn same_shape(found: &[usize], wanted: &[usize]) -> bool {
    found == wanted || (wanted.len() == 2 && found.len() == 4 && found[..2] == *wanted && found[2..] == [1, 1])
}

/// Lists the first names and counts the others.
pub(super) fn some(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(5) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
