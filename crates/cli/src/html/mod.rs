//! Reports as HTML pages: what a command found, to be looked at and passed on.
mod layers;
mod named;

use std::path::{Path, PathBuf};

use report::{Item, Page, Section, Table};

use crate::commands::doctor;
use crate::error::{Error, Result};
use crate::output::{check_ending, check_file};
use crate::printer::Printer;
use crate::{names, runs, table};

pub use layers::sections as layers;
pub use named::{Compared, Named};

/// The page that a command is asked to write.
#[derive(Debug, Clone, Default)]
pub struct Html {
    /// The file; `None` where no page is wanted.
    pub path: Option<PathBuf>,
    /// Whether a file that is there is replaced.
    pub force: bool,
}

impl Html {
    /// Checks, before any work, that the file can be written without losing anything: it is none of `inputs`.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(&self, inputs: &[&Path]) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        check_file(path, self.force, inputs)?;
        check_ending(path, "a report is an HTML page", &["html", "htm"])
    }

    /// Writes the page that `make` makes, where one is wanted.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn write(&self, printer: &Printer, make: impl FnOnce() -> Result<Page>) -> Result<()> {
        match &self.path {
            Some(path) => write(path, make()?, printer),
            None => Ok(()),
        }
    }
}

/// Writes a page, with a last section that says how it was made.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, mut page: Page, printer: &Printer) -> Result<()> {
    page.sections.push(made());
    files::write_atomic(path, page.render().as_bytes())
        .map_err(|error| Error::failed(format!("`{}`: {error}", path.display())))?;
    printer.talk(format!("report {}", path.display()));
    Ok(())
}

/// A table as the terminal shows it.
pub fn table(table: &table::Table) -> Item {
    let mut shown = Table::new(table.head());
    table.rows().for_each(|row| shown.row(row));
    Item::Table(shown)
}

/// Says which command made the page, where and when.
fn made() -> Section {
    let words = std::env::args_os().skip(1).map(|word| names::typed(word.to_string_lossy()));
    let command = std::iter::once("dsconv".to_owned()).chain(words).collect::<Vec<_>>().join(" ");
    let mut table = Table::new(["what", "is"]);
    doctor::versions().into_iter().for_each(|(what, is)| table.row([what.to_owned(), is]));
    table.row(["time, UTC".to_owned(), runs::now()]);
    Section::new("How this was made", "").with(Item::Text(command)).with(Item::Table(table))
}
