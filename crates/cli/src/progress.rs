//! The progress of long work: bars on a terminal, lines off it.
use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::printer::{Bar, Printer};
use crate::table::duration;
use burn::tensor::Device;
use distill::{Context, Interrupter, Progress};

/// The time after which a phase says again how far it is, off a terminal.
const EVERY: Duration = Duration::from_secs(30);

/// Makes a [`Context`] on `device` that shows bars and stops at Ctrl-C. A second Ctrl-C ends the process at once. Where a host
/// listens, progress goes to it, and it alone stops the work.
///
/// # Errors
/// The system refuses the handler of Ctrl-C.
pub fn context(device: Device, printer: &Printer) -> Result<Context> {
    if let Some(host) = printer.host() {
        return Ok(host.context(device));
    }
    let bars = Bars { printer: printer.clone(), phase: Mutex::default() };
    Ok(Context { device, progress: Arc::new(bars), interrupter: interrupter(printer)?, dashboard: false })
}

/// Checks that a dashboard that is wanted can be shown.
///
/// # Errors
/// Stdin and stdout are no terminal.
pub fn check_dashboard(wanted: bool) -> Result<()> {
    if wanted && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let error = Error::usage("`--tui` needs a terminal to draw on and to hear keys from");
        return Err(error.hint("without it, a line says every 30 seconds how far it is"));
    }
    Ok(())
}

/// The interrupter of Ctrl-C, which is one for all that this process does.
///
/// # Errors
/// The system refuses the handler.
fn interrupter(printer: &Printer) -> Result<Interrupter> {
    static HEARD: Mutex<Option<Interrupter>> = Mutex::new(None);
    let mut heard = HEARD.lock().expect("registering a handler does not panic");
    if let Some(interrupter) = &*heard {
        return Ok(interrupter.clone());
    }
    let interrupter = Interrupter::new();
    let (stop, voice) = (interrupter.clone(), printer.clone());
    ctrlc::set_handler(move || {
        if stop.should_stop() {
            std::process::exit(130);
        }
        voice.talk("stopping at the next step; Ctrl-C again ends at once");
        stop.stop(Some("Ctrl-C"));
    })
    .map_err(|error| Error::failed(format!("cannot listen for Ctrl-C: {error}")))?;
    Ok(heard.insert(interrupter).clone())
}

struct Bars {
    printer: Printer,
    phase: Mutex<Option<Phase>>,
}

struct Phase {
    name: String,
    total: usize,
    bar: Bar,
    start: Instant,
    told: Instant,
}

impl Progress for Bars {
    fn start(&self, phase: &str, total: usize) {
        let bar = self.printer.bar(phase.to_owned(), total as u64, "");
        let now = Instant::now();
        let phase = Phase { name: phase.to_owned(), total, bar, start: now, told: now };
        *self.phase.lock().expect("bars do not panic") = Some(phase);
    }

    fn resume(&self, done: usize) {
        if let Some(phase) = self.phase.lock().expect("bars do not panic").as_mut() {
            phase.bar.begin_at(done as u64);
        }
    }

    fn advance(&self, done: usize, note: &str) {
        let mut phase = self.phase.lock().expect("bars do not panic");
        let Some(phase) = phase.as_mut() else { return };
        phase.bar.set_position(done as u64);
        if !note.is_empty() {
            phase.bar.set_message(note.to_owned());
        }
        if phase.bar.is_hidden() && phase.told.elapsed() >= EVERY {
            phase.told = Instant::now();
            let so_far = duration(phase.start.elapsed());
            let left = phase.bar.left().map_or(String::new(), |left| format!(", {left}"));
            let text = format!("{}: {done} of {}, {so_far}{left}  {note}", phase.name, phase.total);
            self.printer.talk(text.trim_end());
        }
    }

    fn finish(&self) {
        if let Some(phase) = self.phase.lock().expect("bars do not panic").take() {
            phase.bar.finish_and_clear();
            self.printer.detail(format!("{}: {}", phase.name, duration(phase.start.elapsed())));
        }
    }
}
