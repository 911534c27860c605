//! `dsconv doctor`: versions, devices and folders.
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::device::{Backend, backends};
use crate::printer::{Printer, lossy};
use crate::table::Table;
use crate::{built_in, places};

/// The burn that this is built on; a test compares it with the lock file.
const BURN: &str = "0.22.1";

/// The result of `dsconv doctor`.
#[derive(Debug, Serialize)]
struct Machine {
    dsconv: &'static str,
    burn: &'static str,
    /// The version of the compiler on the path, which is not necessarily the one that built this binary.
    rustc: Option<String>,
    just: Option<String>,
    system: String,
    cpu: Option<String>,
    cores: usize,
    simd: Vec<&'static str>,
    /// The kernels of the integer engine that run here, slowest first.
    kernels: Vec<&'static str>,
    memory_gib: Option<f64>,
    devices: Vec<Backend>,
    binary: Option<PathBuf>,
    folders: Vec<Folder>,
    /// The number of recipes in the binary.
    recipes: usize,
    /// The number of networks whose weights are in the binary.
    teachers: usize,
}

/// A folder that dsconv uses.
#[derive(Debug, Serialize)]
struct Folder {
    what: &'static str,
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    here: bool,
}

/// Shows versions, devices and folders.
pub fn run(printer: &Printer) {
    let machine = machine();
    printer.result(&machine, |printer| show(&machine, printer));
}

/// Names what a result depends on: the version of dsconv, and the machine.
pub fn versions() -> Vec<(&'static str, String)> {
    let cpu = line("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    vec![
        ("dsconv", env!("CARGO_PKG_VERSION").to_owned()),
        ("burn", BURN.to_owned()),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
        ("cpu", format!("{cpu}, {cores} cores")),
    ]
}

fn machine() -> Machine {
    let folder = |what, path: PathBuf| Folder { what, here: path.is_dir(), path };
    let configs = places::folder_above(Path::new("."), "configs").unwrap_or_else(|| PathBuf::from("configs"));
    Machine {
        dsconv: env!("CARGO_PKG_VERSION"),
        burn: BURN,
        rustc: version("rustc"),
        just: version("just"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: line("/proc/cpuinfo", "model name"),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        simd: simd(),
        kernels: runtime::kernels().into_iter().map(runtime::KernelName::as_str).collect(),
        memory_gib: memory(),
        devices: backends(),
        binary: std::env::current_exe().ok(),
        folders: vec![
            folder("configs", places::plain(&configs)),
            folder("data sets", places::datasets()),
            folder("runs", places::runs()),
        ],
        recipes: built_in::recipes().count(),
        teachers: zoo::teachers().count(),
    }
}

fn show(machine: &Machine, printer: &Printer) {
    let unknown = || "not found".to_owned();
    let mut table = Table::new(["what", "is"]).left([1]);
    let mut row = |what: &str, is: String| table.row([what.to_owned(), is]);
    row("dsconv", machine.dsconv.to_owned());
    row("burn", machine.burn.to_owned());
    row("rustc", machine.rustc.clone().unwrap_or_else(unknown));
    row("just", machine.just.clone().unwrap_or_else(unknown));
    row("system", machine.system.clone());
    row("cpu", machine.cpu.clone().unwrap_or_else(unknown));
    row("cores", machine.cores.to_string());
    row("simd", if machine.simd.is_empty() { "none that is used".to_owned() } else { machine.simd.join(" ") });
    row("kernels", format!("{} (DSCONV_KERNEL chooses)", machine.kernels.join(" ")));
    if let Some(memory) = machine.memory_gib {
        row("memory", format!("{memory:.1} GiB"));
    }
    for device in &machine.devices {
        let is = match (device.compiled, device.feature) {
            (false, Some(feature)) => format!("not built in: `--features {feature}`"),
            (_, Some("wgpu" | "cuda")) => format!("built in, {} found", device.found),
            _ => "built in".to_owned(),
        };
        row(&format!("--device {}", device.name), is);
    }
    if let Some(binary) = &machine.binary {
        row("binary", binary.display().to_string());
    }
    for folder in &machine.folders {
        let there = if folder.here { "" } else { " (not there)" };
        row(folder.what, format!("{}{there}", folder.path.display()));
    }
    row("in the binary", format!("{} recipes, weights of {} networks", machine.recipes, machine.teachers));
    printer.table(&table);
}

/// Returns the version that a program tells: `1.95.0` of `rustc 1.95.0 (...)`.
fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).split_whitespace().nth(1).map(str::to_owned)
}

/// Returns the value of the first line `key : value` of a file.
fn line(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn memory() -> Option<f64> {
    let kibibytes: f64 = line("/proc/meminfo", "MemTotal")?.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes / (1024.0 * 1024.0))
}

/// Returns the instruction sets of this CPU that the engine can use.
fn simd() -> Vec<&'static str> {
    #[allow(unused_mut, reason = "other CPUs")]
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let known = [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
            ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
            ("avxvnni", is_x86_feature_detected!("avxvnni")),
        ];
        found.extend(known.iter().filter(|(_, here)| *here).map(|(name, _)| *name));
    }
    #[cfg(target_arch = "aarch64")]
    {
        let known = [
            ("neon", std::arch::is_aarch64_feature_detected!("neon")),
            ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
            ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ];
        found.extend(known.iter().filter(|(_, here)| *here).map(|(name, _)| *name));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burn_is_the_locked_one() {
        let Ok(lock) = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.lock")) else {
            println!("SKIPPED: this is not the workspace, whose Cargo.lock names burn's version");
            return;
        };
        assert!(lock.contains(&format!("name = \"burn\"\nversion = \"{BURN}\"")), "{BURN} is not in Cargo.lock");
    }
}
