//! This test compares random networks with ONNX Runtime, and the integer engine with the simulation. `generate.py` beside
//! this file makes the graphs, and `graphs.bin` holds some of them.
//!
//! `DSCONV_DIFFERENTIAL=FILE` runs another packed file, and writes one line for each of its graphs into `FILE.tsv`: number,
//! verdict, stage and reason. `hunt.py` runs many such files.

mod numbers;
mod trial;

use std::cell::Cell;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::Value;
use trial::Trial;

/// A graph with images and the logits that ONNX Runtime computes of them.
pub struct Case {
    header: Value,
    onnx: Vec<u8>,
    input: Vec<f32>,
    /// The logits of ONNX Runtime, row-major.
    logits: Vec<f32>,
}

impl Case {
    /// Reads the graphs of a packed file.
    fn unpack(mut bytes: &[u8]) -> Vec<Self> {
        fn take<'a>(bytes: &mut &'a [u8], size: usize) -> &'a [u8] {
            let (length, rest) = bytes.split_first_chunk::<4>().expect("a length");
            let (block, rest) = rest.split_at(u32::from_le_bytes(*length) as usize * size);
            *bytes = rest;
            block
        }
        fn floats(block: &[u8]) -> Vec<f32> {
            block.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }
        let mut cases = Vec::new();
        while !bytes.is_empty() {
            cases.push(Self {
                header: serde_json::from_slice(take(&mut bytes, 1)).expect("a header"),
                onnx: take(&mut bytes, 1).to_vec(),
                input: floats(take(&mut bytes, 4)),
                logits: floats(take(&mut bytes, 4)),
            });
        }
        cases
    }

    fn seed(&self) -> u64 {
        self.header["seed"].as_u64().expect("a seed")
    }

    /// The shape of the input, in the file's order of axes.
    fn shape(&self) -> [usize; 4] {
        let size = |i: usize| self.header["shape"][i].as_u64().expect("four sizes") as usize;
        [size(0), size(1), size(2), size(3)]
    }
}

/// The result of a trial.
enum Verdict {
    /// All computed the same; the simulation rounded another way this many times.
    Right(usize),
    /// The importer refused the graph with this message.
    Refused(String),
    Wrong(String),
    Panicked(String),
}

/// Tries a graph, and gives the verdict and the stage where it was reached.
fn judge(case: &Case) -> (Verdict, &'static str) {
    let stage = Cell::new("import");
    let trial = Trial { case, stage: &stage, turned: Cell::new(0) };
    let verdict = match catch_unwind(AssertUnwindSafe(|| trial.run())) {
        Ok(Ok(())) => Verdict::Right(trial.turned.get()),
        Ok(Err(trial::Failure::Refused(why))) => Verdict::Refused(why),
        Ok(Err(trial::Failure::Wrong(why))) => Verdict::Wrong(why),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Verdict::Panicked(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).into())).unwrap_or_default())
        }
    };
    (verdict, stage.get())
}

/// Tries all graphs, and gives how many were right, how many were refused, and a line for each other one.
fn run(cases: &[Case], mut each: impl FnMut(&str)) -> (usize, usize, Vec<String>) {
    let (mut right, mut refused, mut failed) = (0, 0, Vec::new());
    for (index, case) in cases.iter().enumerate() {
        let (verdict, stage) = judge(case);
        let (word, why) = match verdict {
            Verdict::Right(0) => ("right", String::new()),
            Verdict::Right(times) => ("right", format!("codes turned over {times} times")),
            Verdict::Refused(why) => ("refused", why),
            Verdict::Wrong(why) => ("WRONG", why),
            Verdict::Panicked(why) => ("CRASH", why),
        };
        let line = format!("{index}\t{word}\t{stage}\t{}", why.replace(['\n', '\t'], " "));
        match word {
            "right" => right += 1,
            "refused" => refused += 1,
            _ => failed.push(format!("seed {}: {line}", case.seed())),
        }
        each(&line);
    }
    (right, refused, failed)
}

#[test]
fn random_networks_compute_what_onnx_runtime_does_and_run_in_integers_as_simulated() {
    if let Some(file) = std::env::var_os("DSCONV_DIFFERENTIAL") {
        let cases = Case::unpack(&std::fs::read(&file).unwrap());
        let mut report = String::new();
        let (right, refused, failed) = run(&cases, |line| writeln!(report, "{line}").unwrap());
        std::fs::write(Path::new(&file).with_added_extension("tsv"), report).unwrap();
        eprintln!("{} graphs: {right} right, {refused} refused, {} wrong", cases.len(), failed.len());
        return;
    }
    let cases = Case::unpack(include_bytes!("graphs.bin"));
    let (right, refused, failed) = run(&cases, |_| {});
    eprintln!("{} graphs: {right} right, {refused} refused", cases.len());
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
    assert!(right >= cases.len() * 2 / 3, "only {right} of {} are right, {refused} refused", cases.len());
}
