//! Runs a plan's steps: rows are shared out to threads, strips of pixels stay in cache until they are rounded.
mod images;
mod profile;
mod rows;
mod run;
mod workspace;

pub(crate) use images::{Images, copy_output, hand_on};
pub(crate) use profile::{Profile, StepTime};
pub(crate) use run::{Given, Run};
pub(crate) use workspace::Workspace;
