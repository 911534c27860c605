//! A network that classifies pictures: the integer engine with the preprocessing and the class names of its file. It is what
//! hosts of other languages wrap (crates `web` and `python`).
//!
//! ```no_run
//! use classifier::Classifier;
//! use images::Picture;
//!
//! let mut classifier = Classifier::load(&std::fs::read("model.dsc")?, 1)?;
//! let input = classifier.input(&Picture::decode(&std::fs::read("cat.jpg")?)?)?;
//! let logits = classifier.run(&input)?.to_vec();
//! println!("{:?} {:?}", classifier.probabilities(&logits)?, classifier.classes());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use blockfloat::{ActivationFormat, Bits};
use graph::{Graph, Head, Preprocess};
use images::{ImageError, Picture};
use model::dsc;
use runtime::Session;

/// The reason why a network cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is no model, or the engine cannot run it.
    #[error(transparent)]
    Engine(#[from] runtime::Error),
    /// A `.dsc` file is damaged.
    #[error(transparent)]
    Dsc(#[from] dsc::DscError),
    /// A file in packed safetensors is damaged, or not one.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// A picture cannot be decoded, or cannot become the network's input.
    #[error(transparent)]
    Picture(#[from] ImageError),
    /// Probabilities were asked for other logits than those of one picture.
    #[error("{found} logits were given: the network has {expected}")]
    Logits {
        /// The number of logits that were given.
        found: usize,
        /// The number of the network's outputs.
        expected: usize,
    },
    /// A logit is NaN or infinite.
    #[error("logit {0} is NaN or infinite")]
    NonFiniteLogit(usize),
}

/// How wide the integers of a network are, in most of its quantized layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Widths {
    /// The bits of a weight.
    pub weights: u8,
    /// The bits of an activation; 0 where it is a float.
    pub activations: u8,
}

impl Widths {
    fn new(weights: Bits, activation: Option<ActivationFormat>) -> Self {
        Self { weights: weights.get(), activations: activation.map_or(0, |format| format.bits.get()) }
    }

    /// Returns those that most layers have.
    fn most(layers: impl Iterator<Item = Self>) -> Option<Self> {
        let mut counts = BTreeMap::new();
        layers.for_each(|widths| *counts.entry(widths).or_insert(0) += 1);
        counts.into_iter().max_by_key(|&(_, count)| count).map(|(widths, _)| widths)
    }
}

/// A loaded network and the memory to run it in.
#[derive(Debug)]
pub struct Classifier {
    session: Session,
    graph: Graph,
    preprocess: Preprocess,
    widths: Option<Widths>,
}

impl Classifier {
    /// Loads a model's bytes, `.dsc` or packed safetensors, quantized or in floats, to run it on `threads` threads. A `.dsc` file is
    /// packed layer by layer.
    ///
    /// # Errors
    /// [`Error::Dsc`], [`Error::File`], [`Error::Engine`] for a file that is damaged, no model, or one that asks for more
    /// memory or time than its parameters justify.
    pub fn load(bytes: &[u8], threads: usize) -> Result<Self, Error> {
        let (engine, graph, widths) = if bytes.starts_with(&dsc::MAGIC) {
            let file = dsc::File::parse(bytes)?;
            let widths = Widths::most(file.layers().iter().map(|layer| Widths::new(layer.bits, layer.activation)));
            (runtime::Model::from_bytes(bytes)?, file.graph().clone(), widths)
        } else {
            let model = files::from_bytes(bytes)?;
            let layers = model.layers().values();
            let widths = Widths::most(layers.map(|layer| Widths::new(layer.codes.bits(), layer.activation)));
            let graph = model.graph().clone();
            (runtime::Model::new(model)?, graph, widths)
        };
        let preprocess = engine.info().preprocess.fitted(engine.input());
        Ok(Self { session: engine.session(threads)?, graph, preprocess, widths })
    }

    /// Returns the engine's model.
    pub fn engine(&self) -> &runtime::Model {
        self.session.model()
    }

    /// Returns the network as data.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Returns the names of the classes, as many as there are probabilities; none where the file does not say them.
    pub fn classes(&self) -> Vec<String> {
        self.head().names(&self.engine().info().classes)
    }

    /// Returns how a picture becomes the network's input, with all sizes.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    fn head(&self) -> Head {
        self.graph.head()
    }

    /// Returns the widths of its integers, or `None` for a network in floats.
    pub fn widths(&self) -> Option<Widths> {
        self.widths
    }

    /// Makes the input `[C, H, W]` of a picture, as the file says.
    ///
    /// # Errors
    /// [`Error::Picture`] for a picture that would become too large, or a file whose sizes do not fit.
    pub fn input(&self, picture: &Picture) -> Result<Vec<f32>, Error> {
        Ok(picture.input(&self.preprocess, self.engine().input())?)
    }

    /// Runs inputs `[N, C, H, W]` to logits `[N, outputs]`.
    ///
    /// # Errors
    /// [`Error::Engine`] for another number of values, for ones that are not finite, and where memory does not suffice.
    pub fn run(&mut self, input: &[f32]) -> Result<&[f32], Error> {
        Ok(self.session.run(input)?)
    }

    /// Returns the probability of each class; the logits themselves where no probability follows from them.
    ///
    /// # Errors
    /// [`Error::Logits`], [`Error::NonFiniteLogit`].
    pub fn probabilities(&self, logits: &[f32]) -> Result<Vec<f64>, Error> {
        let head = self.head();
        if logits.len() != head.count {
            return Err(Error::Logits { found: logits.len(), expected: head.count });
        }
        match logits.iter().position(|logit| !logit.is_finite()) {
            Some(index) => Err(Error::NonFiniteLogit(index)),
            None => Ok(head.probabilities(logits)),
        }
    }

    /// Checks a file's bytes as [`Classifier::load`] does, runs the input that a `.dsc` file stores, and compares the logits with the stored
    /// ones, bit by bit. Returns whether the file has any; packed safetensors have none.
    ///
    /// # Errors
    /// [`Error::Dsc`] where a logit differs or the file is damaged; [`Error::File`], [`Error::Engine`].
    pub fn verify(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        if !bytes.starts_with(&dsc::MAGIC) {
            files::from_bytes(bytes)?;
            return Ok(false);
        }
        let file = dsc::File::parse(bytes)?;
        let Some(pair) = file.pair() else { return Ok(false) };
        let input = dsc::Pair::input(pair.seed, self.engine().input());
        file.check_logits(self.run(&input)?)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use graph::{Builder, Conv2d, Op, Shape, Weights};
    use model::{Info, Model, Policy, SaveOptions};

    fn float() -> Model {
        let mut b = Builder::new("small", Shape::new(3, 8, 8));
        let x = b.conv("conv1", Conv2d::new(3, 16, 3).padding(1), b.input());
        let x = b.conv("conv2", Conv2d::new(16, 16, 3).padding(1), x);
        let x = b.push("pool", Op::AdaptiveAvgPool2d { output: [1, 1] }, vec![x]);
        b.linear("fc", 10, x);
        let graph = b.finish().unwrap();
        let weights = Weights::init(&graph, 1);
        let info = Info { preprocess: Preprocess::imagenet_statistics(), classes: vec![], source: "a test".into() };
        Model::float(graph, weights, info).unwrap()
    }

    fn dsc() -> Vec<u8> {
        let model = float().quantize(&Policy::default()).unwrap();
        let mut session = runtime::Model::new(model.clone()).unwrap().session(1).unwrap();
        let logits = session.run(&dsc::Pair::input(7, Shape::new(3, 8, 8))).unwrap().to_vec();
        dsc::write(&model, &dsc::Options { pair: Some(dsc::Pair { seed: 7, logits }), ..dsc::Options::EXACT }).unwrap()
    }

    #[test]
    fn a_picture_is_classified_in_integers_and_in_floats() {
        let picture = Picture::from_rgba(2, 2, &[200; 16]).unwrap();
        // `conv1` reads the image, with 8 bits.
        let packed = files::packed::to_bytes(&float(), &SaveOptions::EXACT).unwrap();
        for (bytes, widths) in [(dsc(), Some(Widths { weights: 4, activations: 4 })), (packed, None)] {
            let mut classifier = Classifier::load(&bytes, 1).unwrap();
            assert_eq!(classifier.widths(), widths);
            let input = classifier.input(&picture).unwrap();
            let logits = classifier.run(&input).unwrap().to_vec();
            let sum: f64 = classifier.probabilities(&logits).unwrap().iter().sum();
            assert!((sum - 1.0).abs() < 1e-9, "{sum}");
        }
    }

    #[test]
    fn the_stored_logits_are_found_again() {
        let bytes = dsc();
        let mut classifier = Classifier::load(&bytes, 1).unwrap();
        assert!(classifier.verify(&bytes).unwrap());
        let packed = files::packed::to_bytes(&float(), &SaveOptions::EXACT).unwrap();
        assert!(!classifier.verify(&packed).unwrap(), "it stores none");
        classifier.verify(&packed[..packed.len() / 2]).unwrap_err();
    }

    #[test]
    fn what_does_not_fit_is_a_sentence() {
        let bytes = dsc();
        let mut classifier = Classifier::load(&bytes, 1).unwrap();
        let said = |error: Error| error.to_string();
        assert_eq!(
            said(classifier.run(&[0.0; 5]).unwrap_err()),
            "the input has 5 elements: expected a multiple of 192, the elements of an image [3, 8, 8]"
        );
        assert_eq!(said(classifier.probabilities(&[0.0; 3]).unwrap_err()), "3 logits were given: the network has 10");
        assert_eq!(said(classifier.probabilities(&[f32::NAN; 10]).unwrap_err()), "logit 0 is NaN or infinite");
        assert!(said(Classifier::load(b"a text", 1).unwrap_err()).len() > 10);
        for cut in [8, 63, 64, bytes.len() / 2, bytes.len() - 1] {
            Classifier::load(&bytes[..cut], 1).unwrap_err();
        }
    }
}
