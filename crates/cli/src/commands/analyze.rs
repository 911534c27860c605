//! `dsconv analyze`: what the quantization of each layer alone does to a network, and formats chosen by it.
mod bars;
mod budget;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use blockfloat::{ActivationFormat, ActivationScale, Bits, BlockSize, ScaleRule};
use distill::{Candidates, Fidelity, Method, Part, Sensitivity, allocate, sensitivity};
use graph::{Folded, Graph};
use model::policy::Rule;
use model::{Float, Plan, Policy};
use report::{Bars, Item, Page, Plot, Section};
use serde::Serialize;

pub use self::budget::Budget;
use self::budget::{Costs, Measured, weights};

use crate::device::DeviceName;
use crate::error::{Error, Result};
use crate::html::{self, Html};
use crate::models::{self, ModelSpec, OpenedModel};
use crate::output::{check_ending, check_file};
use crate::pictures::GivenImages;
use crate::printer::Printer;
use crate::table::{Table, bytes, count, counted, decibels};
use crate::{device, names, pictures, progress, rules};

/// The name of a file that stands for stdout.
const STDOUT: &str = "-";
/// The seed of the pictures that are drawn.
const SEED: u64 = 0x616e_616c;

/// The model to analyze, and how.
#[derive(Debug, Clone)]
pub struct AnalyzeOptions {
    /// The model.
    pub model: ModelSpec,
    /// The images; `None` for pictures that are drawn.
    pub images: Option<GivenImages>,
    /// The most images.
    pub count: usize,
    /// Whether the change of the outputs is estimated.
    pub proxy: bool,
    /// The picture to write.
    pub svg: Option<PathBuf>,
    /// The report to write.
    pub html: Html,
    /// The limit within which formats are chosen.
    pub budget: Option<Budget>,
    /// The file of rules to write, `-` for stdout.
    pub output: Option<PathBuf>,
    /// Whether files that are there are replaced.
    pub force: bool,
    /// The formats to try.
    pub formats: Formats,
    /// The device to compute on.
    pub device: Option<DeviceName>,
}

/// The formats to try.
#[derive(Debug, Clone)]
pub struct Formats {
    /// The bits of a weight; empty for the usual ones.
    pub bits: Vec<Bits>,
    /// The channels that share a scale.
    pub block: BlockSize,
    /// How codes and scales are found.
    pub rule: ScaleRule,
    /// The least bits of an input, which has as many as the weight otherwise.
    pub least_activation_bits: Bits,
    /// The input channels that share a scale.
    pub activation_block: BlockSize,
    /// The scale of an input.
    pub activation_scale: ActivationScale,
}

impl Formats {
    /// Returns the bits of a weight to try, in ascending order.
    fn bits(&self, for_budget: bool) -> Vec<Bits> {
        let usual: &[u8] = if for_budget { &[2, 3, 4, 5, 6, 8] } else { &[4, 8] };
        let mut bits = match self.bits.as_slice() {
            [] => usual.iter().map(|&bits| Bits::new(bits).expect("from 2 to 8")).collect(),
            said => said.to_vec(),
        };
        bits.sort();
        bits.dedup();
        bits
    }

    fn policy(&self, bits: Bits) -> Policy {
        let activation = ActivationFormat {
            bits: bits.max(self.least_activation_bits),
            block: self.activation_block,
            scale: self.activation_scale,
        };
        Policy { bits, block: self.block, rule: self.rule, activation: Some(activation), ..Policy::default() }
    }
}

/// The result of `dsconv analyze`.
#[derive(Debug, Serialize)]
struct Outcome {
    model: String,
    /// The name of the images, and how many there are.
    images: String,
    count: usize,
    /// Whether the noise was estimated.
    estimated: bool,
    /// The layers, worst first.
    layers: Vec<LayerOutcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocation: Option<Allocation>,
}

/// What the quantization of one layer alone does.
#[derive(Debug, Serialize)]
struct LayerOutcome {
    layer: String,
    weights: usize,
    /// What each format does.
    formats: Vec<FormatOutcome>,
}

impl LayerOutcome {
    /// The noise by which layers are sorted: the most that any of its formats makes.
    fn worst(&self) -> f64 {
        self.formats.iter().map(|format| format.noise).fold(0.0, f64::max)
    }
}

/// What one format of a layer does.
#[derive(Debug, Serialize)]
struct FormatOutcome {
    /// The bits of a weight.
    bits: Bits,
    activation_bits: Bits,
    part: Part,
    /// The power of the change of the logits over that of what tells images apart in them.
    noise: f64,
    sqnr_db: Option<f64>,
    /// The mean divergence of probabilities, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    divergence: Option<f64>,
    /// The percentage of images that keep their class.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<f64>,
}

impl FormatOutcome {
    /// Writes `W4`, `A4` or `W4A4`.
    fn name(&self) -> String {
        heading(self.bits, self.activation_bits, self.part)
    }
}

fn heading(bits: Bits, activation_bits: Bits, part: Part) -> String {
    match part {
        Part::Weights => format!("W{bits}"),
        Part::Activations => format!("A{activation_bits}"),
        Part::Both => format!("W{bits}A{activation_bits}"),
    }
}

/// Formats that were chosen within a budget.
#[derive(Debug, Serialize)]
struct Allocation {
    budget: String,
    /// The file of rules; `None` where none is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    rules: Option<String>,
    /// The mean bits of a weight's code.
    mean_bits: f64,
    /// The bytes of all parameters.
    bytes: u64,
    /// The bytes of the larger of the files, `.dsc` and `.safetensors`, that `dsconv quantize` writes; `None` where the budget is none of
    /// bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    file_bytes: Option<u64>,
    /// The milliseconds of an image on one thread of this machine; `None` where they were not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    milliseconds: Option<f64>,
    /// The sum of the noises of all layers, and its SQNR in dB.
    predicted_noise: f64,
    predicted_sqnr_db: Option<f64>,
    /// The number of layers at each number of bits.
    layers_at_bits: std::collections::BTreeMap<u8, usize>,
}

/// Finds what the quantization of each layer alone does to a network, and writes what is asked for.
///
/// # Errors
/// As [`analyze`]; a file cannot be written.
pub fn run(options: &AnalyzeOptions, printer: &Printer) -> Result<()> {
    let spec = &options.model;
    let opened = models::open(spec, printer)?;
    let to_stdout = options.output.as_deref() == Some(Path::new(STDOUT));
    if to_stdout && printer.is_json() {
        return Err(Error::usage("`--json` and `-o -` both print to stdout").hint("name a file for the rules"));
    }
    let rule_file = options.budget.filter(|_| !to_stdout).map(|budget| {
        let name = format!("{}_{}.toml", opened.name, budget.to_string().replace(' ', ""));
        options.output.clone().unwrap_or_else(|| name.into())
    });
    for file in [&options.svg, &rule_file].into_iter().flatten() {
        check_file(file, options.force, &spec.files())?;
    }
    options.svg.iter().try_for_each(|path| check_ending(path, "the bars are an SVG picture", &["svg"]))?;
    rule_file.iter().try_for_each(|path| check_ending(path, "the rules are a TOML file", &["toml"]))?;
    options.html.check(&spec.files())?;
    let Analysis { outcome, rules } = analyze_opened(opened, options, rule_file.as_deref(), printer)?;
    if let (Some(path), Some(rules)) = (&rule_file, &rules) {
        write(path, rules)?;
    }
    if let Some(path) = &options.svg {
        write(path, &bars::draw(&outcome.model, &outcome.layers))?;
    }
    match &rules {
        Some(rules) if to_stdout => printer.line(rules.trim_end()),
        _ => printer.result(&outcome, |printer| show(&outcome, printer)),
    }
    if let Some(path) = &options.svg {
        printer.talk(format!("wrote {}", path.display()));
    }
    options.html.write(printer, || Ok(page(&outcome)))
}

/// What was found out about a network's layers.
#[derive(Debug)]
pub struct Analysis {
    outcome: Outcome,
    /// The text of a file of rules, where there is a budget.
    pub rules: Option<String>,
}

impl Analysis {
    /// Returns the result as `dsconv analyze --json` prints it.
    pub fn document(&self) -> impl Serialize {
        &self.outcome
    }

    /// Draws the layers as bars, as SVG.
    pub fn svg(&self) -> String {
        bars::draw(&self.outcome.model, &self.outcome.layers)
    }
}

/// Finds what the quantization of each layer alone does to a network, and writes nothing.
///
/// # Errors
/// The model or the images cannot be opened, or do not fit each other; the budget cannot be met; the user interrupts it.
pub fn analyze(options: &AnalyzeOptions, printer: &Printer) -> Result<Analysis> {
    analyze_opened(models::open(&options.model, printer)?, options, None, printer)
}

fn analyze_opened(
    opened: OpenedModel,
    options: &AnalyzeOptions,
    rule_file: Option<&Path>,
    printer: &Printer,
) -> Result<Analysis> {
    let AnalyzeOptions { formats, budget, .. } = options;
    let device = device::open(options.device.unwrap_or(DeviceName::Cpu))?;
    let images = pictures::open(options.images.as_ref(), options.count, SEED, &opened.model, printer)?;
    let info = opened.model.info().clone();
    let whole = opened.model.fold().map_err(Error::usage)?;
    // What is compared are logits.
    let folded = match Graph::without_head(whole.graph()) {
        Some(_) => Cow::Owned(whole.clone().without_head()),
        None => Cow::Borrowed(&whole),
    };
    let bits = formats.bits(budget.is_some());
    let plans = bits.iter().map(|&bits| formats.policy(bits).resolve(folded.graph()).map_err(Error::usage));
    let plans = plans.collect::<Result<Vec<Plan>>>()?;
    if plans.iter().all(|plan| plan.layers().is_empty()) {
        return Err(Error::usage(format!("`{}` has no convolution or linear layer", opened.name)));
    }
    let context = progress::context(device, printer);
    let costs = budget.map(|budget| Costs::new(budget, &whole, &plans, &info, &context)).transpose()?;

    let parts: &[Part] = if budget.is_some() { &[Part::Both] } else { &Part::ALL };
    let candidates = Candidates { network: &folded, plans: &plans, parts, images: &images };
    let method = if options.proxy { Method::FirstOrder } else { Method::Exact };
    let found = sensitivity(&candidates, method, &context)?;
    let chosen = costs.map(|costs| choose(costs, rule_file, &whole, &plans, &found, options)).transpose()?;
    let (allocation, rules) = chosen.unzip();
    let outcome = Outcome {
        model: opened.name,
        images: images.name().to_owned(),
        count: images.len(),
        estimated: options.proxy,
        layers: layers(&folded, &plans, &found),
        allocation,
    };
    Ok(Analysis { outcome, rules })
}

fn page(outcome: &Outcome) -> Page {
    let mut bars = Section::new("Layers by format", "A longer bar is worse; 0 dB is as much noise as there is signal.");
    let names: Vec<String> =
        outcome.layers.first().map_or(Vec::new(), |layer| layer.formats.iter().map(FormatOutcome::name).collect());
    for (i, name) in names.iter().enumerate() {
        let bar = |layer: &LayerOutcome| {
            let db = layer.formats.get(i).and_then(|format| format.sqnr_db);
            (layer.layer.clone(), (LOUDEST_DB - db.unwrap_or(LOUDEST_DB)).max(0.0), decibels(db))
        };
        let caption = format!("{name}: SQNR in dB of the logits with this layer alone quantized.");
        bars = bars.with(Item::Plot(Plot::Bars(Bars { caption, bars: outcome.layers.iter().map(bar).collect() })));
    }
    let on = pictures::described(outcome.count, &outcome.images);
    let mut result = Section::new("Sensitivity", SHOWN).with(html::table(&table(outcome)));
    if let Some(found) = &outcome.allocation {
        result = result.with(Item::Text(allocated(found)));
    }
    Page {
        title: format!("{}: what each layer's quantization does", outcome.model),
        summary: format!("{}, each quantized alone, on {on}.", counted(outcome.layers.len(), "layer")),
        sections: vec![result, bars],
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    files::write_atomic(path, text.as_bytes()).map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))
}

/// Puts the results of each layer together, worst layer first.
fn layers(network: &Folded, plans: &[Plan], found: &[Sensitivity]) -> Vec<LayerOutcome> {
    let mut layers: Vec<LayerOutcome> = Vec::new();
    for Sensitivity { layer, plan, part, noise, fidelity } in found {
        let formats = plans[*plan].get(layer).expect("a layer of the plan");
        if layers.last().is_none_or(|last| last.layer != *layer) {
            let shape = rules::weight_shape(network, layer);
            layers.push(LayerOutcome { layer: layer.clone(), weights: shape.iter().product(), formats: Vec::new() });
        }
        let agreement = |f: &Fidelity| 100.0 * f.same as f64 / f.images.max(1) as f64;
        layers.last_mut().expect("one was just pushed").formats.push(FormatOutcome {
            bits: formats.weight.bits,
            activation_bits: formats.activation.map_or(Bits::MAX, |activation| activation.bits),
            part: *part,
            noise: *noise,
            sqnr_db: (*noise > 0.0).then(|| -10.0 * noise.log10()),
            divergence: fidelity.as_ref().map(|f| f.divergence),
            agreement: fidelity.as_ref().map(agreement),
        });
    }
    layers.sort_by(|a, b| b.worst().total_cmp(&a.worst()));
    layers
}

/// What the figures of the table are.
const SHOWN: &str = "SQNR of the logits in dB with one layer alone quantized, worst layer first";
/// The SQNR of a bar of no length, in dB.
const LOUDEST_DB: f64 = 60.0;

fn show(outcome: &Outcome, printer: &Printer) {
    printer.table(&table(outcome));
    printer.line("");
    let how = if outcome.estimated { "estimated " } else { "" };
    printer.line(format!("{how}{SHOWN}; on {}", pictures::described(outcome.count, &outcome.images)));
    if let Some(found) = &outcome.allocation {
        printer.line(allocated(found));
        if let Some(path) = &found.rules {
            printer.line(format!("wrote {path}: `dsconv quantize MODEL --rule-file` takes it"));
        }
    }
}

fn table(outcome: &Outcome) -> Table {
    let first = outcome.layers.first().map_or(&[][..], |layer| &layer.formats);
    let names: Vec<String> = first.iter().map(FormatOutcome::name).collect();
    let last = if outcome.estimated { None } else { first.last().map(|_| "same class %") };
    let head = ["layer", "weights"].into_iter().chain(names.iter().map(String::as_str)).chain(last);
    let mut table = Table::new(head);
    for layer in &outcome.layers {
        let losses = layer.formats.iter().map(|f| decibels(f.sqnr_db));
        // That of the worst format.
        let worst = layer.formats.iter().max_by(|a, b| a.noise.total_cmp(&b.noise)).and_then(|f| f.agreement);
        let worst = worst.map(|percent| format!("{percent:.0}"));
        table.row([layer.layer.clone(), count(layer.weights as u64)].into_iter().chain(losses).chain(worst));
    }
    table
}

/// Says what was chosen within a budget.
fn allocated(found: &Allocation) -> String {
    let at = found.layers_at_bits.iter().map(|(bits, layers)| format!("{layers} at {bits}")).collect::<Vec<_>>();
    let predicted = decibels(found.predicted_sqnr_db);
    format!(
        "budget {}: codes of {:.2} bits a weight in the mean, with scales and floats {}{}{}, predicted {predicted} dB; layers: {}",
        found.budget,
        found.mean_bits,
        bytes(found.bytes),
        found
            .file_bytes
            .map_or(String::new(), |most| format!(", a .dsc or .safetensors file of at most {}", bytes(most))),
        found.milliseconds.map_or(String::new(), |ms| format!(", {ms:.2} ms on this machine just now")),
        at.join(", ")
    )
}

/// Chooses formats within a budget. Returns them as the text of a file of rules too, which may be written to `path`.
fn choose(
    mut costs: Costs<'_>,
    path: Option<&Path>,
    network: &Folded,
    plans: &[Plan],
    found: &[Sensitivity],
    options: &AnalyzeOptions,
) -> Result<(Allocation, String)> {
    let spec = &options.model;
    let model = names::typed(&spec.name);
    let choices = rules::choices(found, |layer, plan| costs.of(layer, plan));
    let formats = |layer: &str, picked: usize| plans[picked].get(layer).expect("a layer of the plan");
    let (picked, rules, file_bytes) = loop {
        let picked = allocate(&choices.layers, costs.room()).ok_or_else(|| Error::usage("the budget cannot be met"))?;
        let rule =
            |(layer, picked): (&String, &usize)| rules::of_layer(layer, formats(layer, *picked), &Policy::default());
        let rules: Vec<Rule> = choices.names.iter().zip(&picked).map(rule).collect();
        // What `dsconv quantize` makes of the rules.
        let plan = Policy { rules: rules.clone(), ..Policy::default() }.resolve(network.graph());
        if let Measured::Fits(bytes) = costs.measure(network, &plan.map_err(Error::usage)?)? {
            break (picked, rules, bytes);
        }
    };
    let budget = costs.budget();
    let (mut codes, mut taken, mut noise) = (0, 0, 0.0);
    let mut size = rules::float_bytes(network, &plans[0]);
    let mut layers_at_bits = std::collections::BTreeMap::new();
    for ((name, choices), picked) in choices.names.iter().zip(&choices.layers).zip(picked) {
        let plan = formats(name, picked);
        let shape = rules::weight_shape(network, name);
        codes += usize::from(plan.weight.bits.get()) * shape.iter().product::<usize>();
        size += plan.bytes(shape, Float::F16);
        noise += choices[picked].noise;
        taken += choices[picked].cost;
        *layers_at_bits.entry(plan.weight.bits.get()).or_insert(0) += 1;
    }
    let predicted_sqnr_db = (noise > 0.0).then(|| -10.0 * noise.log10());
    let mean_bits = codes as f64 / weights(network, &plans[0]) as f64;
    let remark = format!(
        "The formats of each layer for a budget of {budget}: {mean_bits:.2} bits a weight, {}.\n\
         `dsconv analyze {model} --budget` wrote it; `dsconv quantize {model} --rule-file {}` takes it, and it is a config of `dsconv distill`,\n\
         with the images to adapt to added: `adapt = \"photos/\"` in `[data]`.",
        bytes(size),
        names::typed(path.unwrap_or(Path::new("FILE")).display())
    );
    let text = rules::to_toml(&remark, spec, &rules)?;
    let allocation = Allocation {
        budget: budget.to_string(),
        rules: path.map(|path| path.to_string_lossy().into_owned()),
        mean_bits,
        bytes: size,
        file_bytes,
        milliseconds: costs.milliseconds(taken),
        predicted_noise: noise,
        predicted_sqnr_db,
        layers_at_bits,
    };
    Ok((allocation, text))
}
