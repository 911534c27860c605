use std::collections::BTreeMap;
use std::ops::Index;

use blockfloat::SplitMix64;

use crate::build::{Graph, Role};

/// A dense f32 tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl Tensor {
    /// Makes a tensor of this shape from its elements, row-major.
    ///
    /// # Panics
    /// If `data` does not have the shape's number of elements.
    pub fn new(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), data.len(), "tensor of shape {shape:?}");
        Self { shape, data }
    }

    /// Returns the shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the elements, row-major.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// Returns the elements, row-major, to change them.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// Returns the elements, row-major, without a copy.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }
}

/// The parameters of a network by name, as in a PyTorch state dict, in the order of their names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights(BTreeMap<String, Tensor>);

/// The parameters of one node; [`Weights::of`] makes it.
#[derive(Debug, Clone, Copy)]
pub struct NodeWeights<'a, 'n> {
    weights: &'a Weights,
    node: &'n str,
}

impl<'a> NodeWeights<'a, '_> {
    /// Returns the node's parameter of this role, if it has one.
    pub fn get(self, role: Role) -> Option<&'a Tensor> {
        self.weights.get(&role.name(self.node))
    }

    /// Returns the node's `weight`: the filters of a layer, the scales of a normalisation, or slopes.
    ///
    /// # Panics
    /// If the node has none. Weights that [`Weights::check`] accepted have one for every node whose operation needs it.
    pub fn weight(self) -> &'a Tensor {
        self.get(Role::Weight).unwrap_or_else(|| panic!("node `{}` has no weight", self.node))
    }

    /// Returns the node's `bias`, if it has one.
    pub fn bias(self) -> Option<&'a Tensor> {
        self.get(Role::Bias)
    }
}

/// Why weights do not fit a graph. `{}` prints the first differences of each kind, `{:#}` all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightsError {
    /// The graph's name.
    pub graph: String,
    /// The names of parameters that the graph needs and the weights lack.
    pub missing: Vec<String>,
    /// The names of tensors that the graph does not need.
    pub unexpected: Vec<String>,
    /// The tensors of another shape, as `(name, expected shape, found shape)`.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl std::error::Error for WeightsError {}

impl std::fmt::Display for WeightsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit = if f.alternate() { usize::MAX } else { SHOWN };
        write!(f, "the weights do not fit `{}`:", self.graph)?;
        let mut list = |kind: &str, lines: Vec<String>| {
            for line in lines.iter().take(limit) {
                write!(f, "\n  {kind:<11} {line}")?;
            }
            match lines.len().saturating_sub(limit) {
                0 => Ok(()),
                more => write!(f, "\n  {kind:<11} and {more} more"),
            }
        };
        let shapes =
            |(name, want, got): &(String, Vec<usize>, Vec<usize>)| format!("{name}: expected {want:?}, found {got:?}");
        list("missing", self.missing.clone())?;
        list("unexpected", self.unexpected.clone())?;
        list("wrong shape", self.wrong_shape.iter().map(shapes).collect())
    }
}

/// The number of differences of a kind that `{}` prints.
const SHOWN: usize = 5;

impl WeightsError {
    /// Compares names and shapes of the tensors that a graph needs with those that were found.
    ///
    /// # Errors
    /// [`WeightsError`] with every difference.
    pub fn compare(
        graph: &str,
        expected: &BTreeMap<String, Vec<usize>>,
        found: &BTreeMap<&str, &[usize]>,
    ) -> Result<(), Self> {
        let mut error = Self { graph: graph.into(), missing: vec![], unexpected: vec![], wrong_shape: vec![] };
        for (name, want) in expected {
            match found.get(name.as_str()) {
                None => error.missing.push(name.clone()),
                Some(got) if got != want => error.wrong_shape.push((name.clone(), want.clone(), got.to_vec())),
                Some(_) => {}
            }
        }
        error.unexpected =
            found.keys().filter(|name| !expected.contains_key(**name)).map(ToString::to_string).collect();
        let fits = error.missing.is_empty() && error.unexpected.is_empty() && error.wrong_shape.is_empty();
        if fits { Ok(()) } else { Err(error) }
    }
}

/// Indexing by name panics if there is no tensor of this name; [`Weights::get`] returns an option.
impl Index<&str> for Weights {
    type Output = Tensor;
    fn index(&self, name: &str) -> &Tensor {
        self.get(name).unwrap_or_else(|| panic!("there is no tensor `{name}`"))
    }
}

impl FromIterator<(String, Tensor)> for Weights {
    fn from_iter<T: IntoIterator<Item = (String, Tensor)>>(tensors: T) -> Self {
        Self(tensors.into_iter().collect())
    }
}

impl Extend<(String, Tensor)> for Weights {
    fn extend<T: IntoIterator<Item = (String, Tensor)>>(&mut self, tensors: T) {
        self.0.extend(tensors);
    }
}

impl IntoIterator for Weights {
    type Item = (String, Tensor);
    type IntoIter = std::collections::btree_map::IntoIter<String, Tensor>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Weights {
    /// Returns the parameters of a node.
    pub fn of<'n>(&self, node: &'n str) -> NodeWeights<'_, 'n> {
        NodeWeights { weights: self, node }
    }

    /// Returns the tensor of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Returns the tensor of this name, if there is one, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Tensor> {
        self.0.get_mut(name)
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// Removes the tensor of this name and returns it, if there is one.
    pub fn remove(&mut self, name: &str) -> Option<Tensor> {
        self.0.remove(name)
    }

    /// Lists all names and tensors, in the order of the names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Lists all tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.0.values()
    }

    /// Lists all tensors, in the order of their names, to change them.
    pub fn tensors_mut(&mut self) -> impl ExactSizeIterator<Item = &mut Tensor> {
        self.0.values_mut()
    }

    /// Checks that names and shapes are those that the graph needs.
    ///
    /// # Errors
    /// [`WeightsError`] lists every difference.
    pub fn check(&self, graph: &Graph) -> Result<(), WeightsError> {
        self.check_except(graph, |_| false)
    }

    /// Checks as [`Weights::check`] does, but without the parameters for whose names `elsewhere` is true, such as weights
    /// that are stored as codes.
    ///
    /// # Errors
    /// [`WeightsError`] lists every difference.
    pub fn check_except(&self, graph: &Graph, elsewhere: impl Fn(&str) -> bool) -> Result<(), WeightsError> {
        let expected = graph.params().into_iter().filter(|p| !elsewhere(&p.name)).map(|p| (p.name, p.shape)).collect();
        let found = self.0.iter().map(|(name, tensor)| (name.as_str(), tensor.shape())).collect();
        WeightsError::compare(graph.name(), &expected, &found)
    }

    /// Draws random weights for training from scratch: normal by He et al. 2015 (fan out) for convolutions, uniform within
    /// `1/sqrt(fan in)` for linear layers; normalisations are the identity. Equal seeds give equal weights on every machine.
    ///
    /// # Panics
    /// If the weights do not fit memory.
    pub fn init(graph: &Graph, seed: u64) -> Self {
        let mut rng = Random(SplitMix64::new(seed));
        let mut weights = Self::default();
        for param in graph.params() {
            let n: usize = param.shape.iter().product();
            let data = match (param.role, param.shape.as_slice()) {
                (Role::Weight, &[out, _, kh, kw]) => {
                    let std = (2.0 / (out * kh * kw) as f64).sqrt();
                    (0..n).map(|_| (rng.normal() * std) as f32).collect()
                }
                (Role::Weight, shape) => {
                    let bound = 1.0 / (shape[1] as f64).sqrt();
                    (0..n).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect()
                }
                (Role::Gamma | Role::Variance, _) => vec![1.0; n],
                (Role::Bias | Role::Mean, _) => vec![0.0; n],
                // PyTorch starts with this slope too.
                (Role::Slope, _) => vec![0.25; n],
            };
            weights.insert(param.name, Tensor::new(param.shape, data));
        }
        weights
    }
}

/// The random numbers that weights are drawn with.
struct Random(SplitMix64);

impl Random {
    /// Draws uniformly from (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.0.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Draws from the standard normal distribution (Box-Muller).
    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}
