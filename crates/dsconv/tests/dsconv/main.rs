//! These tests compare the burn side with the plain-loop reference, ONNX Runtime, torchvision and the integer engine.

mod devices;
mod differential;
mod example;
mod imported;
mod layers;
mod modules;
mod network;
