//! The burn side against the plain-loop reference, torchvision, and real networks.

mod devices;
mod differential;
mod example;
mod imported;
mod layers;
mod modules;
mod network;
