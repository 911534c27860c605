//! `dsconv completions` and `dsconv man`: what a shell and `man` know of the command.
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::error::{Error, Result};
use crate::printer::Printer;

/// Prints the completions of a shell.
///
/// # Errors
/// The output cannot be made.
pub fn completions(shell: Shell, mut command: Command, printer: &Printer) -> Result<()> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "dsconv", &mut text);
    print(&text, printer)
}

/// Prints the page of `man` of the whole command, or writes one for every command to a folder.
///
/// # Errors
/// The folder cannot be written.
pub fn man(folder: Option<&Path>, command: Command, printer: &Printer) -> Result<()> {
    let Some(folder) = folder else {
        let mut text = Vec::new();
        Man::new(command).render(&mut text)?;
        return print(&text, printer);
    };
    let at = |error: &dyn std::fmt::Display| Error::failed(format!("`{}`: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(|error| at(&error))?;
    pages(command, "", &mut |name, text| {
        files::write_atomic(&folder.join(format!("{name}.1")), text).map_err(|error| at(&error))
    })?;
    printer.talk(format!("wrote the pages of man to {}", folder.display()));
    Ok(())
}

/// Makes the page of a command and those of its own commands.
fn pages(command: Command, above: &str, write: &mut impl FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
    let name = format!("{above}{}", command.get_name());
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        pages(inner.clone(), &format!("{name}-"), write)?;
    }
    let mut text = Vec::new();
    // The name is that of the page: `dsconv-config-keys`.
    let shown: &'static str = name.clone().leak();
    Man::new(command.name(shown)).render(&mut text)?;
    write(&name, &text)
}

fn print(text: &[u8], printer: &Printer) -> Result<()> {
    let text = std::str::from_utf8(text).map_err(|error| Error::failed(error.to_string()))?;
    text.lines().for_each(|line| printer.line(line));
    Ok(())
}
