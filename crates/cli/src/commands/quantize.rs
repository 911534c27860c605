//! `dsconv quantize`: a model is quantized, without any data or with layers fitted on images.
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use blockfloat::{Bits, BlockSize, TapScales};
use distill::Context;
use graph::{Folded, FoldedGraph, Graph, Node, Op, Weights};
use model::pattern::matches;
use model::policy::Rule;
use model::{Float, Info, LayerPlan, Model, Plan, Policy, QuantizedLayer, SaveOptions};
use report::{Item, Page, Section};
use serde::Serialize;

use super::fitted::{self, Fit, FitImages, FitOutcome};
use super::plan::{Planned, in_blocks};
use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::html::{self, Html};
use crate::models::{ModelSpec, OpenedModel};
use crate::output::{Ending, Output, Target, Written, check_file};
use crate::printer::Printer;
use crate::rules::FileRules;
use crate::table::{Table, count, counted, decibels};
use crate::verdict::{Help, On, Reference, Verdict};
use crate::{deploy, device, models, names, pictures, progress, rules, verdict};

/// The result of `dsconv quantize`.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    written: Written,
    #[serde(flatten)]
    summary: &'a Summary,
}

/// What a quantization did to a network.
#[derive(Debug, Serialize)]
pub struct Summary {
    weight_sqnr: WeightSqnr,
    /// How far it is from the float network; `None` where that could not be found out.
    pub verdict: Option<Verdict>,
    /// The layers that are kept at 8 bits because they matter most.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kept: Vec<String>,
    /// The layers whose inputs have more bits than others because they read the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    image_layers: Vec<String>,
    layers: BTreeMap<String, LayerLoss>,
    /// The convolutions and linear layers that stay in floats.
    float_layers: Vec<String>,
    /// What images were used for.
    #[serde(skip_serializing_if = "Option::is_none")]
    fit: Option<FitOutcome>,
    /// What may make it better.
    #[serde(skip)]
    help: Help,
}

/// What a quantized layer lost.
#[derive(Debug, Serialize)]
struct LayerLoss {
    format: String,
    weights: usize,
    /// Tells whether a filter has one channel, so that each weight has a scale.
    #[serde(skip)]
    one_channel: bool,
    /// The signal to quantization noise ratio of its weights in dB; `None` where nothing was lost.
    sqnr_db: Option<f64>,
}

/// The SQNR of the layers' weights, in dB. One figure for all weights together would be that of the layers whose weights are
/// largest, which is no measure of the network.
#[derive(Debug, Serialize)]
pub struct WeightSqnr {
    /// The median; `None` where most layers lost nothing.
    median_db: Option<f64>,
    /// The least SQNR.
    worst_db: Option<f64>,
    /// The layer that has the least.
    worst_layer: Option<String>,
}

impl WeightSqnr {
    /// Summarises these layers; `None` stands for a layer that lost nothing.
    pub fn of<'a>(layers: impl Iterator<Item = (&'a str, Option<f64>)>) -> Self {
        let mut layers: Vec<(&str, f64)> = layers.map(|(name, db)| (name, db.unwrap_or(f64::INFINITY))).collect();
        layers.sort_by(|a, b| a.1.total_cmp(&b.1));
        let finite = |db: f64| db.is_finite().then_some(db);
        let worst = layers.first().filter(|(_, db)| db.is_finite());
        Self {
            median_db: layers.get(layers.len().saturating_sub(1) / 2).and_then(|&(_, db)| finite(db)),
            worst_db: worst.map(|&(_, db)| db),
            worst_layer: worst.map(|(name, _)| (*name).to_owned()),
        }
    }
}

/// Writes `SQNR of a layer's weights: 21.2 dB in the median, 11.3 dB at worst (conv1)`.
impl std::fmt::Display for WeightSqnr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Some(worst), Some(layer)) = (self.worst_db, &self.worst_layer) else {
            return f.write_str("no layer's weights lost anything");
        };
        f.write_str("SQNR of a layer's weights: ")?;
        if let Some(median) = self.median_db {
            write!(f, "{median:.1} dB in the median, ")?;
        }
        write!(f, "{worst:.1} dB at worst ({layer})")
    }
}

/// Computes the SQNR of a layer in dB against the float weights that it stands for, with batch normalisation folded in; `None`
/// where nothing was lost.
pub fn sqnr(weights: &Weights, name: &str, layer: &QuantizedLayer) -> Option<f64> {
    let (mut signal, mut noise) = (0.0, 0.0);
    for (&w, &v) in weights.of(name).weight().data().iter().zip(&layer.codes.dequantize()) {
        signal += f64::from(w) * f64::from(w);
        noise += (f64::from(w) - f64::from(v)).powi(2);
    }
    (noise > 0.0).then(|| 10.0 * (signal / noise).log10())
}

/// The model to quantize, and how.
#[derive(Debug, Clone)]
pub struct QuantizeOptions {
    /// The model.
    pub model: ModelSpec,
    /// The formats of its layers.
    pub policy: Policy,
    /// A file of rules, which come before those of the policy.
    pub rule_file: Option<PathBuf>,
    /// Whether the layers that matter most are kept at 8 bits.
    pub keep_worst: bool,
    /// The images to fit layers on.
    pub images: FitImages,
    /// Whether only the plan is shown.
    pub dry_run: bool,
    /// The report to write.
    pub html: Html,
    /// The file to write.
    pub target: Target,
}

/// The percentage of images held out with the class of the float network below which that is a warning.
const GOOD: f64 = 85.0;

/// Quantizes a model and writes it.
///
/// # Errors
/// The model cannot be opened or is quantized already; the policy does not fit it; the file cannot be written.
pub fn run(options: &QuantizeOptions, printer: &Printer) -> Result<()> {
    let start = Instant::now();
    let QuantizeOptions { model: spec, target, .. } = options;
    let ending = ending(options)?;
    options.html.check(&spec.files())?;
    let (policy, file) = policy(options, printer)?;
    let opened = models::open(spec, printer)?;
    let default = format!("{}_{}.safetensors", opened.name, scheme(&policy));
    // A dry run may say what would replace a file.
    let target = &Target { force: target.force || options.dry_run, ..target.clone() };
    let output = Output::new(target, &default, &spec.files())?;
    let job = Job::new(opened, policy, file, options, printer)?;
    if options.dry_run {
        options.images.check()?;
        Planned::new(&job.folded, &job.plan, &job.stored).print(printer);
        return Ok(());
    }
    let quantized = job.quantize(options, printer)?;
    let Quantized { model, stored, .. } = &quantized;
    let written = match ending {
        Ending::Dsc => output.save_bytes(&quantized.dsc(printer)?, model, start)?,
        _ => output.save(model, stored, start)?,
    };

    let outcome = Outcome { written, summary: &quantized.summary };
    printer.result(&outcome, |printer| show(&outcome, printer));
    outcome.summary.warn(printer);
    let (model, file) = (names::typed(&spec.name), names::typed(outcome.written.path.display()));
    printer.talk(format!(
        "how accurate it is, only images tell: `dsconv eval {file} --data DATA --against {model}`; `dsconv distill` wins \
         accuracy back"
    ));
    options.html.write(printer, || Ok(page(&quantized.name, &outcome, quantized.sections)))
}

/// Quantizes a model, and writes nothing.
///
/// # Errors
/// The model cannot be opened or is quantized already; the policy does not fit it; the user interrupts it.
pub fn quantize(options: &QuantizeOptions, printer: &Printer) -> Result<Quantized> {
    let (policy, file) = policy(options, printer)?;
    let opened = models::open(&options.model, printer)?;
    let quantized = Job::new(opened, policy, file, options, printer)?.quantize(options, printer)?;
    quantized.summary.warn(printer);
    quantized.summary.fit.iter().for_each(|fit| fit.warn(printer));
    Ok(quantized)
}

/// A quantized network, with what was found out about it.
#[derive(Debug)]
pub struct Quantized {
    /// The name of the network that was quantized.
    pub name: String,
    /// The quantized model.
    pub model: Model,
    /// How its floats are stored; the model has them rounded so.
    pub stored: SaveOptions,
    /// What was found out.
    pub summary: Summary,
    /// What a page shows of the layers.
    sections: Vec<Section>,
}

impl Quantized {
    /// Returns the bytes of its `.dsc` file.
    ///
    /// # Errors
    /// None in practice: the model is quantized.
    pub fn dsc(&self, printer: &Printer) -> Result<Vec<u8>> {
        deploy::bytes(&self.model, &self.stored, printer)
    }
}

impl Summary {
    /// Warns where the network has lost more than a little.
    fn warn(&self, printer: &Printer) {
        self.verdict.iter().for_each(|verdict| verdict.warn(self.help, printer));
        let is_said = self.verdict.as_ref().is_some_and(|verdict| verdict.broken || verdict.constant);
        let agreement = self.fit.as_ref().and_then(FitOutcome::agreement);
        if let Some(agreement) = agreement.filter(|agreement| *agreement < GOOD && !is_said) {
            printer.warn(format!(
                "it names another class than the float network for {:.0} % of the images held out: points of accuracy are lost; {}, \
                 `dsconv analyze` names the layers",
                100.0 - agreement,
                self.help
            ));
        }
    }
}

/// A network that is ready to be quantized.
struct Job {
    name: String,
    info: Info,
    folded: Folded,
    plan: Plan,
    policy: Policy,
    stored: SaveOptions,
    kept: Vec<String>,
}

impl Job {
    /// Finds the layers that are kept at 8 bits where that is asked for, and the format of every layer.
    fn new(
        opened: OpenedModel,
        mut policy: Policy,
        file: Option<FileRules>,
        options: &QuantizeOptions,
        printer: &Printer,
    ) -> Result<Self> {
        let info = opened.model.info().clone();
        let given = policy.clone();
        let kept = match options.keep_worst {
            true => keep_worst(&opened, &mut policy, &cpu(printer)?, printer)?,
            false => Vec::new(),
        };
        let name = opened.name;
        let folded = opened.model.fold().map_err(Error::usage)?;
        let plan = policy.resolve(folded.graph()).map_err(Error::usage)?;
        file.iter().try_for_each(|file| file.check(folded.graph()))?;
        check_rules(&options.policy.rules, folded.graph())?;
        if plan.layers().is_empty() {
            return Err(Error::usage("every layer is skipped: nothing is left to quantize"));
        }
        say_deciders(folded.graph(), &plan, options, &given, printer);
        Ok(Self { name, info, folded, plan, policy, stored: options.target.options(Float::F16), kept })
    }

    /// Quantizes and fits the layers, and compares the network with the float one.
    fn quantize(self, options: &QuantizeOptions, printer: &Printer) -> Result<Quantized> {
        let Self { name, info, folded, plan, policy, stored, kept, .. } = self;
        let help = help(folded.graph(), &plan, &policy, options)?;
        let image_layers = image_layers(folded.graph(), &plan, &policy);
        printer.detail(format!("quantizing {name} to {}", formats(&plan)));
        let context = cpu(printer)?;
        let mut model = distill::quantize(&folded, &plan, info, &context)?;
        let (mut fit, mut held) = (None, None);
        if let Some(found) = fitted::fit(&options.images, &folded, &plan, &model, &context, printer)? {
            let Fit { model: fitted, outcome, held: images } = found;
            (model, fit, held) = (fitted, Some(outcome), images);
        }
        model.round(&stored);
        let layers = measure(&folded, &model, &plan);
        let pictures = pictures::open(None, verdict::COUNT, verdict::SEED, &model, printer)?;
        let sections = match options.html.path {
            Some(_) => html::layers(&folded, &model, Some(&pictures), &context)?,
            None => Vec::new(),
        };
        let is_on_made = fit.as_ref().is_some_and(FitOutcome::is_on_made);
        let (images, on) = match held {
            Some(held) if held.len() >= verdict::COUNT => (held.take(verdict::MOST_HELD), On::Held),
            _ if is_on_made => (pictures, On::Fitted),
            _ => (pictures, On::Others),
        };
        let reference = verdict::known(Reference::new(&folded, images, &context), printer)?;
        drop(folded);

        let weight_sqnr = WeightSqnr::of(layers.iter().map(|(name, layer)| (name.as_str(), layer.sqnr_db)));
        let float_layers = float_layers(&model);
        let verdict = reference
            .map(|reference| verdict::known(reference.verdict(&model, on, &context), printer))
            .transpose()?
            .flatten();
        let summary = Summary { weight_sqnr, verdict, kept, image_layers, layers, float_layers, fit, help };
        Ok(Quantized { name, model, stored, summary, sections })
    }
}

/// The page of a quantized network: what was written, and what each layer lost.
fn page(name: &str, Outcome { written, summary }: &Outcome<'_>, layers: Vec<Section>) -> Page {
    let mut result = Section::new("Result", written.to_string()).with(Item::Text(lines(summary).join("\n")));
    if let Some(fit) = &summary.fit {
        result = result.with(fitted::before_and_after(fit));
    }
    let summary = summary.verdict.as_ref().map_or_else(|| summary.weight_sqnr.to_string(), ToString::to_string);
    let sections = std::iter::once(result).chain(layers).collect();
    Page { title: format!("{name}, quantized"), summary, sections }
}

/// Returns the policy, with the rules of a file before its own, and these.
///
/// # Errors
/// The file cannot be read.
fn policy(options: &QuantizeOptions, printer: &Printer) -> Result<(Policy, Option<FileRules>)> {
    let file = options.rule_file.as_ref().map(|path| rules::read(path, printer)).transpose()?;
    let mut rules = file.as_ref().map(|file| file.rules.clone()).unwrap_or_default();
    rules.extend_from_slice(&options.policy.rules);
    Ok((Policy { rules, ..options.policy.clone() }, file))
}

/// Checks that each rule of the command line says something of a layer that no later one says otherwise.
///
/// # Errors
/// One does not.
fn check_rules(rules: &[Rule], graph: &Graph) -> Result<()> {
    let layers: Vec<&str> =
        graph.nodes().iter().filter(|node| node.weight_shape().is_some()).map(|node| node.name.as_str()).collect();
    let shown = |rule: &Rule| match rule.bits {
        Some(bits) => format!("`{}={bits}`", rule.layers),
        None => format!("`{}=float`", rule.layers),
    };
    for (rule, later) in rules.iter().zip(1..).map(|(rule, next)| (rule, &rules[next..])) {
        let own = layers.iter().filter(|layer| matches(&rule.layers, layer));
        let said_later = own.map(|layer| later.iter().find(|other| matches(&other.layers, layer)));
        if let Some(Some(other)) = said_later.collect::<Option<Vec<_>>>().map(|others| others.first().copied()) {
            return Err(Error::usage(format!(
                "{} is without effect: {} decides of the same layers",
                shown(rule),
                shown(other)
            ))
            .hint("leave one of them out; of several rules the last one counts, and `--skip` comes after `--layer`"));
        }
    }
    Ok(())
}

/// The surroundings of work on the CPU that Ctrl-C stops.
fn cpu(printer: &Printer) -> Result<Context> {
    Ok(progress::context(device::open(DeviceName::Cpu)?, printer))
}

/// Puts rules before those of the policy that keep the layers that matter most at 8 bits, and returns the names of these layers.
///
/// # Errors
/// The policy does not fit the network; the user interrupts it.
fn keep_worst(opened: &OpenedModel, policy: &mut Policy, context: &Context, printer: &Printer) -> Result<Vec<String>> {
    let model = opened.model.clone().without_head();
    let pictures = pictures::open(None, rules::PICTURES, rules::SEED, &model, printer)?;
    let network = model.fold().map_err(Error::usage)?;
    if !rules::any_can_be_raised(network.graph(), policy)? {
        let why = match policy.rules.is_empty() {
            true => "all layers have 8 bits",
            false => "`--layer` and `--skip` decide of all layers",
        };
        return Err(Error::usage(format!("`--keep-worst` is without effect: {why}"))
            .hint("leave it out; it gives 8 bits to layers that no other option decides of"));
    }
    let kept = rules::keep_worst(&network, policy, &pictures, context)?;
    let names = kept.iter().map(|rule| rule.layers.clone()).collect();
    policy.rules.splice(0..0, kept);
    Ok(names)
}

/// Tells what may make a network of this plan better: what was given, or cannot be given beside it, does not.
///
/// # Errors
/// The policy does not fit the network, which has a plan of it.
fn help(graph: &FoldedGraph, plan: &Plan, policy: &Policy, options: &QuantizeOptions) -> Result<Help> {
    let is_less = |bits: Bits| bits < Bits::MAX;
    let can_have_more =
        |layer: &LayerPlan| is_less(layer.weight.bits) || layer.activation.is_some_and(|input| is_less(input.bits));
    let is_free = !options.keep_worst && options.rule_file.is_none();
    Ok(Help {
        more_bits: plan.layers().values().any(can_have_more),
        keep_worst: is_free && rules::any_can_be_raised(graph, policy)?,
    })
}

/// Says where `--winograd` finds no layer, and what decides where a file of rules or `--layer` says otherwise than an option for all layers.
fn say_deciders(graph: &Graph, plan: &Plan, options: &QuantizeOptions, policy: &Policy, printer: &Printer) {
    let own = &options.policy.rules;
    let ruled = |rules: &[Rule], name: &str| rules.iter().any(|rule| matches(&rule.layers, name));
    if let Some(file) = &options.rule_file {
        let of_file = &policy.rules[..policy.rules.len() - own.len()];
        let (file, layers) = (names::typed(file.display()), plan.layers().len());
        let decided = plan.layers().keys().filter(|name| ruled(of_file, name) && !ruled(own, name)).count();
        printer.talk(match layers - decided {
            0 => format!("{file} decides of all layers, other options of what its rules leave open"),
            rest => format!(
                "{file} decides of {decided} of {layers} layers, other options of the {rest} that it does not name"
            ),
        });
        let linear = |node: &&Node| matches!(node.op, Op::Linear { .. }) && !plan.layers().contains_key(&node.name);
        let left = graph.nodes().iter().filter(linear).filter(|node| ruled(of_file, &node.name));
        let left: Vec<&str> =
            left.filter(|node| !policy.linear && !ruled(own, &node.name)).map(|node| node.name.as_str()).collect();
        if !left.is_empty() {
            let (verb, names) = (if left.len() == 1 { "stays" } else { "stay" }, left.join(", "));
            printer.talk(format!("{names} {verb} in floats, whatever {file} says: `--convolutions-only` decides"));
        }
    }
    let suited = plan.layers().values().any(|layer| layer.weight.taps == TapScales::Shared);
    if policy.winograd.is_some() && !suited {
        printer.warn(
            "`--winograd` is without effect: it is for 3x3 convolutions of stride 1, of one group and a multiple of 16 channels, with weights \
             of at most 4 bits, that no rule gives other scales",
        );
    }
    let image = graph.image_values();
    for node in graph.nodes().iter().filter(|node| node.inputs.first().is_some_and(|id| image[id.index()])) {
        let bits = plan.get(&node.name).and_then(|layer| layer.activation).map(|input| input.bits);
        if let Some(bits) = bits.filter(|&bits| bits < policy.image_bits && ruled(own, &node.name)) {
            printer.talk(format!(
                "{} reads the image with {bits} bits, not {}: `--layer` decides, `--image-bits` is for layers that it does not name",
                node.name, policy.image_bits
            ));
        }
    }
}

/// Returns the format to write.
///
/// # Errors
/// The name of the file is not that of a format that holds a quantized model; the file cannot be written.
fn ending(QuantizeOptions { model, target, dry_run, .. }: &QuantizeOptions) -> Result<Ending> {
    let Some(path) = &target.path else { return Ok(Ending::Safetensors) };
    check_file(path, target.force || *dry_run, &model.files())?;
    match Ending::of(path, &[Ending::Safetensors, Ending::Dsc])? {
        Ending::Onnx => {
            let (dsc, onnx) = (names::typed(path.with_extension("dsc").display()), names::typed(path.display()));
            Err(Error::usage(format!("`{}`: `quantize` writes .safetensors and .dsc", path.display())).hint(format!(
                "`dsconv quantize {} -o {dsc}`, then `dsconv export {dsc} -o {onnx}`",
                names::typed(&model.name)
            )))
        }
        ending => Ok(ending),
    }
}

fn show(Outcome { written, summary }: &Outcome<'_>, printer: &Printer) {
    if printer.is_verbose() {
        let mut table = Table::new(["layer", "format", "weights", "SQNR dB"]).left([1]);
        for (name, layer) in &summary.layers {
            table.row([name.clone(), layer.format.clone(), count(layer.weights as u64), decibels(layer.sqnr_db)]);
        }
        printer.table(&table);
        printer.line("");
    }
    lines(summary).iter().for_each(|line| printer.line(line));
    if let Some(fit) = &summary.fit {
        fitted::show(fit, printer);
    }
    if let Some(verdict) = &summary.verdict {
        printer.line(verdict);
    }
    printer.line(written);
}

/// Says what was quantized.
fn lines(summary: &Summary) -> Vec<String> {
    let weights: usize = summary.layers.values().map(|layer| layer.weights).sum();
    let mut lines =
        vec![format!("{}, {} weights quantized", counted(summary.layers.len(), "layer"), count(weights as u64))];
    let depthwise: Vec<&LayerLoss> = summary.layers.values().filter(|layer| layer.one_channel).collect();
    if !depthwise.is_empty() {
        lines.push(format!(
            "{} of one channel a filter, {} weights: a scale for each weight, 16 bits more than a code",
            counted(depthwise.len(), "layer"),
            count(depthwise.iter().map(|layer| layer.weights as u64).sum())
        ));
    }
    if !summary.kept.is_empty() {
        lines.push(format!("kept at 8 bits: {}", summary.kept.join(", ")));
    }
    if !summary.image_layers.is_empty() {
        let names = summary.image_layers.join(", ");
        lines.push(format!("inputs that keep more bits, since they are the image: of {names}"));
    }
    if !summary.float_layers.is_empty() {
        let (layers, names) = (counted(summary.float_layers.len(), "layer"), summary.float_layers.join(", "));
        let verb = if summary.float_layers.len() == 1 { "stays" } else { "stay" };
        lines.push(format!("{layers} {verb} in floats: {names}"));
    }
    lines.push(summary.weight_sqnr.to_string());
    lines
}

/// Lists the layers that read the image and therefore round their input to more bits than the policy says for others.
fn image_layers(graph: &Graph, plan: &Plan, policy: &Policy) -> Vec<String> {
    let image = graph.image_values();
    let more = |node: &&Node| {
        let bits = plan.get(&node.name).and_then(|layer| layer.activation).map(|format| format.bits);
        bits == Some(policy.image_bits) && bits > policy.activation.map(|format| format.bits)
    };
    let layers = graph.nodes().iter().filter(|node| node.inputs.first().is_some_and(|id| image[id.index()]));
    layers.filter(more).map(|node| node.name.clone()).collect()
}

/// Names a policy `w4a4`, or `w4` where inputs stay in floats, with the block where it is not the usual one.
fn scheme(policy: &Policy) -> String {
    let mut name = format!("w{}", policy.bits);
    if let Some(activation) = policy.activation {
        name += &format!("a{}", activation.bits);
    }
    if policy.block != Policy::default().block {
        name += &match policy.block {
            BlockSize::PIXEL => "_pixel".to_owned(),
            block => format!("_b{block}"),
        };
    }
    name
}

/// Lists the formats of a plan, each once.
fn formats(plan: &Plan) -> String {
    let formats: BTreeSet<String> = plan.layers().values().map(ToString::to_string).collect();
    formats.into_iter().collect::<Vec<_>>().join("; ")
}

/// Measures every quantized layer against the weights that it stands for.
fn measure(folded: &Folded, quantized: &Model, plan: &Plan) -> BTreeMap<String, LayerLoss> {
    let layer = |(name, layer): (&String, &QuantizedLayer)| {
        let sqnr_db = sqnr(folded.weights(), name, layer);
        let format = plan.get(name).map(|plan| in_blocks(plan, layer.codes.shape()).to_string()).unwrap_or_default();
        let one_channel = layer.codes.shape()[1] == 1;
        (name.clone(), LayerLoss { format, weights: layer.codes.codes().len(), one_channel, sqnr_db })
    };
    quantized.layers().iter().map(layer).collect()
}

/// Returns the names of the convolutions and linear layers that are in floats.
pub fn float_layers(model: &Model) -> Vec<String> {
    let layers = model.graph().nodes().iter().filter(|node| node.weight_shape().is_some());
    layers.filter(|node| !model.layers().contains_key(&node.name)).map(|node| node.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_layer_is_named() {
        let shown = |layers: &[(&str, Option<f64>)]| WeightSqnr::of(layers.iter().copied()).to_string();
        let layers = [("a", Some(30.0)), ("b", None), ("c", Some(8.25)), ("d", Some(20.0))];
        assert_eq!(shown(&layers), "SQNR of a layer's weights: 20.0 dB in the median, 8.2 dB at worst (c)");
        assert_eq!(
            shown(&[("b", None), ("c", None), ("d", Some(9.0))]),
            "SQNR of a layer's weights: 9.0 dB at worst (d)"
        );
        assert_eq!(shown(&[("b", None)]), "no layer's weights lost anything");
    }
}
