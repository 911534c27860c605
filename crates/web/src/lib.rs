//! The integer engine for browsers and Node: WebAssembly that loads `.dsc` files and classifies pictures, with the same bits as
//! everywhere. `crates/web/build` makes the npm package and the demo page of it.
//!
//! The types here are those that JavaScript sees. They only hand on to [`Classifier`].
//!
//! Errors are thrown as `Error` with the sentence that the command line prints. A panic, which is a defect, is thrown as an
//! `Error` that begins with "a defect in dsconv"; after it, or after a `WebAssembly.RuntimeError` (memory that cannot be had),
//! the module must be given up with its worker, since its memory may be in any state.
#![forbid(unsafe_code)]

use classifier::Classifier;
use wasm_bindgen::prelude::*;
use wasm_bindgen::{Clamped, JsError};

/// Makes a panic an `Error` in JavaScript: without this it would be a `RuntimeError: unreachable` that says nothing.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|panic| wasm_bindgen::throw_str(&format!("a defect in dsconv: {panic}"))));
}

/// A decoded picture.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Picture(images::Picture);

#[wasm_bindgen]
impl Picture {
    /// Decodes the bytes of a JPEG, PNG, BMP or WebP file, with the same bytes as the command line. An orientation in EXIF is
    /// not applied.
    pub fn decode(bytes: &[u8]) -> Result<Picture, JsError> {
        Ok(Self(images::Picture::decode(bytes)?))
    }

    /// Takes the pixels of an `ImageData`; alpha is dropped.
    #[wasm_bindgen(js_name = fromRgba)]
    pub fn from_rgba(width: u32, height: u32, rgba: Clamped<Vec<u8>>) -> Result<Picture, JsError> {
        Ok(Self(images::Picture::from_rgba(width as usize, height as usize, &rgba)?))
    }

    /// The width in pixels.
    #[wasm_bindgen(getter)]
    pub fn width(&self) -> u32 {
        self.0.size()[1] as u32
    }

    /// The height in pixels.
    #[wasm_bindgen(getter)]
    pub fn height(&self) -> u32 {
        self.0.size()[0] as u32
    }
}

/// A network that is ready to run.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Model(Classifier);

#[wasm_bindgen]
impl Model {
    /// Loads the bytes of a model's file: `.dsc`, or packed safetensors, which may be in floats.
    #[wasm_bindgen(constructor)]
    pub fn new(bytes: &[u8]) -> Result<Model, JsError> {
        Ok(Self(Classifier::load(bytes, 1)?))
    }

    /// The name of the network.
    #[wasm_bindgen(getter)]
    pub fn name(&self) -> String {
        self.0.graph().name().to_owned()
    }

    /// Where the network came from, as free text.
    #[wasm_bindgen(getter)]
    pub fn source(&self) -> String {
        self.0.engine().info().source.clone()
    }

    /// The names of the classes, as many as there are probabilities; none where the file does not say them.
    #[wasm_bindgen(getter)]
    pub fn classes(&self) -> Vec<String> {
        self.0.classes()
    }

    /// The shape of an input: channels, height, width.
    #[wasm_bindgen(getter)]
    pub fn shape(&self) -> Vec<u32> {
        let shape = self.0.engine().input();
        [shape.channels, shape.height, shape.width].map(|side| side as u32).to_vec()
    }

    /// The number of logits of one picture.
    #[wasm_bindgen(getter)]
    pub fn outputs(&self) -> u32 {
        self.0.engine().outputs() as u32
    }

    /// The number of parameters.
    #[wasm_bindgen(getter)]
    pub fn parameters(&self) -> f64 {
        self.0.graph().cost().parameters as f64
    }

    /// The bits of a weight in most quantized layers; undefined for a network in floats.
    #[wasm_bindgen(getter, js_name = weightBits)]
    pub fn weight_bits(&self) -> Option<u8> {
        self.0.widths().map(|widths| widths.weights)
    }

    /// The bits of an activation in most quantized layers, 0 where it is a float; undefined for a network in floats.
    #[wasm_bindgen(getter, js_name = activationBits)]
    pub fn activation_bits(&self) -> Option<u8> {
        self.0.widths().map(|widths| widths.activations)
    }

    /// The kernel that runs it: `simd128`, or `scalar` in the build without SIMD.
    #[wasm_bindgen(getter)]
    pub fn kernel(&self) -> String {
        self.0.engine().kernel().to_string()
    }

    /// Makes a network's input of a picture: it is resized, cropped and normalised as the file says.
    pub fn input(&self, picture: &Picture) -> Result<Vec<f32>, JsError> {
        Ok(self.0.input(&picture.0)?)
    }

    /// Runs inputs, one after the other in one array, to their logits.
    pub fn run(&mut self, input: &[f32]) -> Result<Vec<f32>, JsError> {
        Ok(self.0.run(input)?.to_vec())
    }

    /// Returns the probability of each class from the logits of one picture; the logits themselves where no probability
    /// follows from them.
    pub fn probabilities(&self, logits: &[f32]) -> Result<Vec<f64>, JsError> {
        Ok(self.0.probabilities(logits)?)
    }

    /// Runs the input that a `.dsc` file stores, and throws unless the logits are the stored ones, bit by bit. Returns whether
    /// the file stores any.
    pub fn verify(&mut self, dsc: &[u8]) -> Result<bool, JsError> {
        Ok(self.0.verify(dsc)?)
    }
}
