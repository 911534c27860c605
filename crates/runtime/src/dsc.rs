//! Files that this engine and others are checked with.
use model::dsc::{self, Options, Pair};
use model::{Model, SaveOptions};

use crate::Error;

/// The seed of the stored input.
const SEED: u64 = 1;

/// Writes a model as the bytes of a `.dsc` file, as [`dsc::write`] does, with an input and the logits that this engine has for it.
/// `dsconv verify` and the hosts of other languages run that input again and compare, bit by bit.
///
/// # Errors
/// As [`dsc::write`]; as [`Model::new`](crate::Model::new) and [`Session::run`](crate::Session::run) where the engine cannot run the
/// model.
pub fn to_dsc(model: &Model, floats: &SaveOptions) -> Result<Vec<u8>, Error> {
    let mut stored = model.clone();
    stored.round(floats);
    let input = Pair::input(SEED, model.graph().input());
    let logits = crate::Model::new(stored.clone())?.session(1)?.run(&input)?.to_vec();
    Ok(dsc::write(&stored, &Options { floats: *floats, pair: Some(Pair { seed: SEED, logits }) })?)
}
