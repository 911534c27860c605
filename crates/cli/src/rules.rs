//! Rules for layers: those of a file, and those that keep the worst layers at 8 bits.
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use blockfloat::Bits;
use distill::{Candidates, Choice, Context, Method, Part, Sensitivity, allocate, sensitivity};
use graph::{Folded, FoldedGraph, Graph, ImageConfig};
use images::Unlabelled;
use model::policy::{ActivationChange, ActivationRule, Rule};
use model::{Float, LayerPlan, Plan, Policy};
use serde::Deserialize;

use crate::config::{ConfigFile, ConfigKind};
use crate::error::{Error, Result};
use crate::models::ModelSpec;
use crate::printer::Printer;
use crate::recipe::rule_error;

/// The pictures on which the layers are compared, and their seed.
pub const PICTURES: usize = 16;
pub const SEED: u64 = 0x6b65_6570;
/// The part of the predicted noise that a layer must have to be kept at 8 bits.
const LEAST_NOISE: f64 = 0.01;
/// The part of the size that 8-bit layers may add.
const KEEP_WORST: f64 = 0.03;

/// A file of rules, which is also a config of `dsconv distill`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    /// The model that the rules were made for, and what is known of it, which is read by `dsconv distill` alone.
    #[serde(default, rename = "model")]
    _model: Option<String>,
    #[serde(default, rename = "weights")]
    _weights: Option<PathBuf>,
    #[serde(default, rename = "classes")]
    _classes: Option<PathBuf>,
    #[serde(default, rename = "image")]
    _image: Option<ImageConfig>,
    quantize: Quantize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Quantize {
    rules: Vec<Rule>,
}

/// The rules of a file.
#[derive(Debug)]
pub struct FileRules {
    file: ConfigFile,
    /// The rules.
    pub rules: Vec<Rule>,
}

impl FileRules {
    /// Checks that none of them is without effect on a network because of the others.
    ///
    /// # Errors
    /// One is, which is pointed at.
    pub fn check(&self, network: &Graph) -> Result<()> {
        let policy = Policy { rules: self.rules.clone(), ..Policy::default() };
        policy.check_rules(network).map_err(|error| rule_error(&self.file, &error))
    }
}

/// Reads the `[[quantize.rules]]` of a file. Anything else in it but what tells of the model is refused, since it would be without effect.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read(path: &Path, printer: &Printer) -> Result<FileRules> {
    if !path.is_file() {
        return Err(Error::usage(format!("--rule-file `{}`: there is no such file", path.display())).into_missing());
    }
    let file = ConfigFile::open(&path.to_string_lossy(), ConfigKind::Distill, &[], printer)?;
    let RuleFile { quantize, .. } = file.parse()?;
    match quantize.rules.is_empty() {
        true => Err(Error::usage(format!("--rule-file `{}`: it has no rules", path.display()))),
        false => Ok(FileRules { file, rules: quantize.rules }),
    }
}

/// Makes a rule that gives one layer the formats of a plan, where they differ from those of `policy`.
pub fn of_layer(name: &str, plan: &LayerPlan, policy: &Policy) -> Rule {
    let differs = |same: bool| !same;
    let activation = plan.activation.map(|format| {
        let usual = policy.activation;
        ActivationRule::Change(ActivationChange {
            bits: Some(format.bits),
            block: differs(usual.is_some_and(|usual| usual.block == format.block)).then_some(format.block),
            scale: differs(usual.is_some_and(|usual| usual.scale == format.scale)).then_some(format.scale),
        })
    });
    Rule {
        layers: name.to_owned(),
        bits: Some(plan.weight.bits),
        block: differs(plan.weight.block == policy.block).then_some(plan.weight.block),
        rule: differs(plan.weight.rule == policy.rule).then_some(plan.weight.rule),
        scales: differs(plan.scales == policy.scales).then_some(plan.scales),
        activation: Some(activation.unwrap_or(ActivationRule::Off)),
        skip: None,
    }
}

/// Writes rules as a file that [`read`] reads and `dsconv distill` runs; `remark` is put before them as a comment.
///
/// # Errors
/// A value cannot be written, which none of a rule's is.
pub fn to_toml(remark: &str, model: &ModelSpec, rules: &[Rule]) -> Result<String> {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let mut text: String = remark.lines().map(|line| format!("# {line}\n")).collect();
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let _ = writeln!(text, "model = {}", quoted(&model.name));
    for (key, file) in [("weights", &model.weights), ("classes", &model.classes)] {
        if let Some(file) = file {
            let _ = writeln!(text, "{key} = {}", path(file));
        }
    }
    if !model.image.is_empty() {
        let _ = write!(text, "\n[image]\n{}", toml::to_string(&model.image)?);
    }
    for rule in rules {
        text += "\n[[quantize.rules]]\n";
        let table = toml::Table::try_from(rule)?;
        for key in ["layers", "bits", "block", "rule", "scales", "activation", "skip"] {
            if let Some(value) = table.get(key) {
                // A table stays in its line: `activation = { bits = 4 }`.
                let _ = writeln!(text, "{key} = {value}");
            }
        }
    }
    Ok(text)
}

/// Finds the layers that are worth 8 bits: those that take most of the predicted noise away for at most 3 % of the model's size.
///
/// The noise of a layer alone is estimated to first order; that of several is taken for their sum. Rules of the policy decide of their
/// layers, which are left out.
///
/// # Errors
/// The policy does not fit the network; the images cannot be read; the user interrupts it.
pub fn keep_worst(network: &Folded, policy: &Policy, images: &Unlabelled, context: &Context) -> Result<Vec<Rule>> {
    let eight = Bits::MAX;
    let plans = plans(network.graph(), policy)?;
    let candidates = Candidates { network, plans: &plans, parts: &[Part::Both], images };
    let found = sensitivity(&candidates, Method::FirstOrder, context)?;
    let bytes = |name: &str, plan: usize| {
        plans[plan].get(name).expect("a layer of the plan").bytes(weight_shape(network, name), Float::F16)
    };
    let mut choices = choices(&found, bytes);
    let base: u64 = choices.layers.iter().map(|choices| choices[0].cost).sum();
    let floats = float_bytes(network, &plans[0]);
    let extra = (KEEP_WORST * (base + floats) as f64) as u64;
    choices.retain(|name| can_be_raised(name, &plans));
    let base: u64 = choices.layers.iter().map(|choices| choices[0].cost).sum();
    let picked = allocate(&choices.layers, base + extra).unwrap_or_default();
    // Bytes that are left over go to no layer that hardly loses anything.
    let all: f64 = choices.layers.iter().map(|choices| choices[0].noise).sum();
    let matters = choices.layers.iter().map(|choices| choices[0].noise > LEAST_NOISE * all);
    let raised =
        choices.names.iter().zip(picked).zip(matters).filter(|((_, picked), matters)| *picked == 1 && *matters);
    let raised = raised.map(|(layer, _)| layer);
    Ok(raised
        .map(|(name, _)| Rule { activation: policy.activation.map(|_| change(eight)), ..bits_of(name, eight) })
        .collect())
}

/// Tells whether [`keep_worst`] can give a layer more bits, which `policy` has given fewer and no rule of it decides of.
///
/// # Errors
/// The policy does not fit the network.
pub fn any_can_be_raised(network: &FoldedGraph, policy: &Policy) -> Result<bool> {
    let plans = plans(network, policy)?;
    Ok(plans[0].layers().keys().any(|name| can_be_raised(name, &plans)))
}

/// Returns the plan of a policy, and that of one which gives all layers 8 bits that the policy's rules do not decide of.
fn plans(network: &FoldedGraph, policy: &Policy) -> Result<[Plan; 2]> {
    let all = Rule { activation: policy.activation.map(|_| change(Bits::MAX)), ..bits_of("*", Bits::MAX) };
    // What stays in floats stays so: `skip` of other rules is not touched.
    let raised = Policy { rules: [all].into_iter().chain(policy.rules.iter().cloned()).collect(), ..policy.clone() };
    let plan = |policy: &Policy| policy.resolve(network).map_err(Error::usage);
    Ok([plan(policy)?, plan(&raised)?])
}

/// Tells whether a layer has 8 bits in the second of two plans, and fewer in the first.
fn can_be_raised(name: &str, [usual, raised]: &[Plan; 2]) -> bool {
    let is_eight = |plan: &&LayerPlan| {
        plan.weight.bits == Bits::MAX && plan.activation.is_none_or(|activation| activation.bits == Bits::MAX)
    };
    raised.get(name).filter(is_eight).is_some_and(|raised| usual.get(name) != Some(raised))
}

fn bits_of(layers: &str, bits: Bits) -> Rule {
    Rule { layers: layers.to_owned(), bits: Some(bits), ..Rule::default() }
}

fn change(bits: Bits) -> ActivationRule {
    ActivationRule::Change(ActivationChange { bits: Some(bits), ..ActivationChange::default() })
}

/// The formats that each layer can have, for [`allocate`].
pub struct Choices {
    /// The names of the layers, in the graph's order.
    pub names: Vec<String>,
    /// A choice for each plan.
    pub layers: Vec<Vec<Choice>>,
}

impl Choices {
    /// Leaves out the layers that are not to be chosen for.
    fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        let (names, layers) = (std::mem::take(&mut self.names), std::mem::take(&mut self.layers));
        (self.names, self.layers) = names.into_iter().zip(layers).filter(|(name, _)| is_wanted(name)).unzip();
    }
}

/// Puts what each format of a layer takes, by `cost` of its name and plan, beside what it does to the outputs.
pub fn choices(found: &[Sensitivity], cost: impl Fn(&str, usize) -> u64) -> Choices {
    let mut choices = Choices { names: Vec::new(), layers: Vec::new() };
    for Sensitivity { layer, plan, noise, .. } in found.iter().filter(|found| found.part == Part::Both) {
        if choices.names.last() != Some(layer) {
            choices.names.push(layer.clone());
            choices.layers.push(Vec::new());
        }
        let last = choices.layers.last_mut().expect("one was just pushed");
        last.push(Choice { cost: cost(layer, *plan), noise: *noise });
    }
    choices
}

/// Returns the shape of a layer's weight, `[Co, Ci/G, Kh, Kw]`.
///
/// # Panics
/// If the network has no layer of this name.
pub fn weight_shape(network: &Folded, layer: &str) -> [usize; 4] {
    let graph = network.graph();
    graph.find(layer).and_then(|id| graph.node(id).weight_shape()).expect("a layer of the network")
}

/// The bytes of the parameters that have no codes, in F32.
pub fn float_bytes(network: &Folded, plan: &Plan) -> u64 {
    let coded: Vec<String> = plan.layers().keys().map(|name| graph::Role::Weight.name(name)).collect();
    let floats = network.weights().iter().filter(|(name, _)| !coded.iter().any(|coded| coded == name));
    floats.map(|(_, tensor)| 4 * tensor.data().len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        let policy = Policy::default();
        let rule = Rule {
            layers: "a \"quoted\" name".into(),
            bits: Some(Bits::MAX),
            activation: Some(change(Bits::MAX)),
            ..Rule::default()
        };
        let model = ModelSpec { name: "net.onnx".into(), ..ModelSpec::default() };
        let rules = [rule.clone(), Rule { layers: "b".into(), ..rule.clone() }];
        let text = to_toml("two\nlines", &model, &rules).unwrap();
        assert!(text.starts_with("# two\n# lines\nmodel = \"net.onnx\"\n\n[[quantize.rules]]\n"), "{text}");
        assert!(text.contains("activation = { bits = 8 }\n"), "{text}");
        let read: RuleFile = toml::from_str(&text).unwrap();
        assert_eq!(read.quantize.rules, rules);
        // What is known of the model goes with it: without, it would be another network.
        let image = ImageConfig { divide: Some(1.0), mean: Some(vec![0.5]), ..ImageConfig::default() };
        let text =
            to_toml("x", &ModelSpec { classes: Some("names.txt".into()), image: image.clone(), ..model }, &rules);
        let text = text.unwrap();
        let distills: crate::recipe::DistillRecipe = toml::from_str(&text).unwrap();
        assert_eq!((distills.image, distills.classes), (image, Some("names.txt".into())));
        assert_eq!(distills.quantize.rules, rules);
        assert_eq!(toml::from_str::<RuleFile>(&text).unwrap().quantize.rules, rules);
        assert_eq!(policy.rules, []);
    }
}
