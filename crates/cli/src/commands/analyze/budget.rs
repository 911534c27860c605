//! Budgets within which the formats of layers are chosen: bits, bytes or time.
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use blockfloat::packed_len;
use distill::Context;
use graph::Folded;
use model::dsc::{self, Pair};
use model::{Float, Info, LayerPlan, Plan, SaveOptions};
use runtime::Session;

use crate::error::{Error, Result};
use crate::table::bytes;
use crate::{progress, rules};

/// How often each layer is timed; its time is the shortest.
const PROFILES: usize = 15;

/// The bytes at whose multiples the layers of a `.dsc` file begin.
const ALIGN: u64 = 64;

/// A limit within which formats are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// The mean number of bits of a weight's code, over the weights of all layers. Scales are not counted, so that all layers at
    /// 4 bits are just within 4.
    Bits(f64),
    /// The bytes of the larger of the files, `.dsc` and `.safetensors`, that `dsconv quantize` writes where nothing else is asked for.
    Bytes(u64),
    /// The milliseconds of an image in the integer engine, on one thread of this machine.
    Milliseconds(f64),
}

impl FromStr for Budget {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let number = number.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
        let unit = match unit {
            "bits" | "bit" => return number.map(Self::Bits).ok_or_else(|| "a number above 0 before `bits`".to_owned()),
            "ms" => return number.map(Self::Milliseconds).ok_or_else(|| "a number above 0 before `ms`".to_owned()),
            "B" => 1.0,
            "kB" | "KB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            _ => {
                return Err("bits of a weight, as 4.2bits, a size in kB, MB or GB, as 6MB, or time, as 12ms".to_owned());
            }
        };
        number
            .map(|number| Self::Bytes((number * unit) as u64))
            .ok_or_else(|| "a number above 0 before the unit".to_owned())
    }
}

/// Writes `4.2bits`, `6.00 MB` or `12ms`.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bits(bits) => write!(f, "{bits}bits"),
            Self::Bytes(size) => f.write_str(&bytes(*size)),
            Self::Milliseconds(ms) => write!(f, "{ms}ms"),
        }
    }
}

/// Whether a file keeps a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// It does, with its bytes where the budget is one of bytes.
    Fits(Option<u64>),
    /// It does not: formats are to be chosen again.
    TooLarge,
}

/// What the formats of each layer take of a budget.
pub struct Costs<'a> {
    budget: Budget,
    /// What the network's file says of it.
    info: &'a Info,
    context: &'a Context,
    /// For each plan what each layer takes: bytes, or nanoseconds.
    layers: Vec<BTreeMap<String, u64>>,
    /// What everything that is no planned layer takes.
    rest: u64,
    /// What the layers may take.
    room: u64,
    /// The least that the layers can take.
    least: u64,
}

impl<'a> Costs<'a> {
    /// Finds out what layers take, for a budget of time by running each plan's network in the integer engine.
    ///
    /// # Errors
    /// The smallest formats take more than the budget; the engine cannot run the network; the user interrupts it.
    pub fn new(budget: Budget, network: &Folded, plans: &[Plan], info: &'a Info, context: &'a Context) -> Result<Self> {
        let shape = |name: &str| rules::weight_shape(network, name);
        let mut rest = 0;
        let layers = match budget {
            // Codes are padded to whole bytes, layer by layer.
            Budget::Bits(_) => {
                of_all(plans, |name, plan| packed_len(shape(name).iter().product(), plan.weight.bits) as u64)
            }
            Budget::Bytes(_) => {
                let bytes = |name: &str, plan: &LayerPlan| {
                    let codes = packed_len(shape(name).iter().product(), plan.weight.bits) as u64;
                    let scales = plan.bytes(shape(name), Float::F16) - codes;
                    (codes.next_multiple_of(4) + scales).next_multiple_of(ALIGN)
                };
                let layers = of_all(plans, bytes);
                let of_layers: u64 = layers[0].values().sum();
                rest = file_bytes(network, &plans[0], info, context)?.saturating_sub(of_layers);
                layers
            }
            Budget::Milliseconds(_) => {
                let (layers, others) = times(network, plans, info, context)?;
                rest = others;
                layers
            }
        };
        let room = match budget {
            Budget::Bits(bits) => {
                Some((bits / 8.0 * weights(network, &plans[0]) as f64) as u64 + layers[0].len() as u64)
            }
            Budget::Bytes(size) => size.checked_sub(rest),
            Budget::Milliseconds(ms) => ((ms * 1e6) as u64).checked_sub(rest),
        };
        let least = |name: &String| layers.iter().filter_map(|costs| costs.get(name)).min().expect("its own cost");
        let least: u64 = layers[0].keys().map(least).sum();
        let costs = Self { budget, info, context, layers, rest, room: room.unwrap_or(0), least };
        if room.is_some_and(|room| room >= least) {
            return Ok(costs);
        }
        let (what, needed) = match budget {
            Budget::Bits(_) => {
                ("smallest", format!("{:.2} bits", 8.0 * least as f64 / weights(network, &plans[0]) as f64))
            }
            Budget::Bytes(_) => ("smallest", bytes(least + rest)),
            Budget::Milliseconds(_) => ("fastest", format!("{:.2} ms", (least + rest) as f64 / 1e6)),
        };
        Err(costs.unmet(what, &needed))
    }

    fn unmet(&self, what: &str, needed: &str) -> Error {
        Error::usage(format!("a budget of {} cannot be met: the {what} formats take {needed}", self.budget))
            .hint("`--bits` says which numbers of bits are tried, `--block` how many scales there are")
    }

    /// Writes the network of a plan that was chosen, where the budget is one of bytes. What the larger of the files takes more than the
    /// budget is taken from what the layers may take: block scales that F16 does not hold, for example, take more than was counted.
    ///
    /// # Errors
    /// The layers cannot take less.
    pub fn measure(&mut self, network: &Folded, plan: &Plan) -> Result<Measured> {
        let Budget::Bytes(most) = self.budget else { return Ok(Measured::Fits(None)) };
        let found = file_bytes(network, plan, self.info, self.context)?;
        let over = found.saturating_sub(most);
        if over == 0 {
            return Ok(Measured::Fits(Some(found)));
        }
        self.rest += over;
        match self.room.checked_sub(over).filter(|room| *room >= self.least) {
            Some(room) => self.room = room,
            None => return Err(self.unmet("smallest", &bytes(self.least + self.rest))),
        }
        Ok(Measured::TooLarge)
    }

    /// Returns the budget.
    pub fn budget(&self) -> Budget {
        self.budget
    }

    /// Returns what a layer takes in the format of a plan, in bytes or nanoseconds.
    pub fn of(&self, layer: &str, plan: usize) -> u64 {
        self.layers[plan][layer]
    }

    /// Returns what the layers together may take.
    pub fn room(&self) -> u64 {
        self.room
    }

    /// Returns the time of an image in milliseconds where the layers take `layers` nanoseconds; `None` for other budgets.
    pub fn milliseconds(&self, layers: u64) -> Option<f64> {
        matches!(self.budget, Budget::Milliseconds(_)).then(|| (layers + self.rest) as f64 / 1e6)
    }
}

/// Finds a cost for every layer of every plan.
fn of_all(plans: &[Plan], cost: impl Fn(&str, &LayerPlan) -> u64) -> Vec<BTreeMap<String, u64>> {
    let of_plan = |plan: &Plan| plan.layers().iter().map(|(name, plan)| (name.clone(), cost(name, plan))).collect();
    plans.iter().map(of_plan).collect()
}

/// Returns the bytes of the larger of the files that a network of this plan can be written to.
fn file_bytes(network: &Folded, plan: &Plan, info: &Info, context: &Context) -> Result<u64> {
    let model = distill::quantize(network, plan, info.clone(), context)?;
    let floats = SaveOptions { floats: Float::F32, scale_precision: Float::F16 };
    let pair = Some(Pair { seed: 0, logits: vec![0.0; model.graph().output().elements()] });
    let dsc = dsc::write(&model, &dsc::Options { floats, pair })?.len();
    Ok(dsc.max(files::packed::to_bytes(&model, &floats)?.len()) as u64)
}

/// Times the layers of every plan on one thread, in nanoseconds, and the least of all that is no planned layer.
///
/// # Errors
/// The engine cannot run the network; the user interrupts it.
fn times(
    network: &Folded,
    plans: &[Plan],
    info: &Info,
    context: &Context,
) -> Result<(Vec<BTreeMap<String, u64>>, u64)> {
    let (mut layers, mut rest) = (Vec::new(), u64::MAX);
    context.progress.start("time layers", plans.len());
    for (done, plan) in plans.iter().enumerate() {
        let engine = runtime::Model::new(distill::quantize(network, plan, info.clone(), context)?)?;
        let steps = steps(&mut engine.session(1)?, context)?;
        // A layer that the engine runs in another step takes nothing by itself.
        let mut of_plan: BTreeMap<String, u64> = plan.layers().keys().map(|name| (name.clone(), 0)).collect();
        let mut others = 0;
        for (name, nanoseconds) in steps {
            *of_plan.get_mut(&name).unwrap_or(&mut others) += nanoseconds;
        }
        layers.push(of_plan);
        rest = rest.min(others);
        context.progress.advance(done + 1, "");
    }
    context.progress.finish();
    Ok((layers, rest))
}

/// Times the steps of an image in nanoseconds, each by its shortest time, with the names of the nodes that they begin with.
fn steps(session: &mut Session, context: &Context) -> Result<Vec<(String, u64)>> {
    let image = crate::commands::bench::image(session.model().input().elements());
    let mut least: Vec<(String, u64)> = Vec::new();
    for _ in 0..PROFILES {
        if context.interrupter.should_stop() {
            return Err(progress::stopped());
        }
        let found = session.profile(&image)?.into_iter().map(|step| (step.name, (step.seconds * 1e9) as u64));
        match least.is_empty() {
            true => least = found.collect(),
            false => least.iter_mut().zip(found).for_each(|(least, (_, time))| least.1 = least.1.min(time)),
        }
    }
    Ok(least)
}

/// Returns the number of weights of the planned layers.
pub fn weights(network: &Folded, plan: &Plan) -> usize {
    let weights = |name: &String| network.weights().of(name).weight().data().len();
    plan.layers().keys().map(weights).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_have_units() {
        let read = |text: &str| text.parse::<Budget>();
        assert_eq!(read("4.2bits"), Ok(Budget::Bits(4.2)));
        assert_eq!(read("6MB"), Ok(Budget::Bytes(6_000_000)));
        assert_eq!(read("1.5 kB"), Ok(Budget::Bytes(1500)));
        assert_eq!(read("12ms"), Ok(Budget::Milliseconds(12.0)));
        assert_eq!(read("500KB"), Ok(Budget::Bytes(500_000)));
        assert_eq!(read("2MiB"), Ok(Budget::Bytes(2 << 20)));
        // A small b may be a bit.
        for wrong in ["6", "6mb", "6Mb", "bits", "-1bits", "ms", "0MB", "infbits", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            [Budget::Bits(4.2), Budget::Bytes(6_000_000), Budget::Milliseconds(1.5)].map(|budget| budget.to_string()),
            ["4.2bits", "6.00 MB", "1.5ms"]
        );
    }
}
