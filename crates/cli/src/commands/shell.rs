//! `dsconv completions` and `dsconv man`: what a shell and `man` know of the command.
use std::path::Path;

use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::built_in;
use crate::error::{Error, Result};
use crate::printer::Printer;

/// Prints the completions of a shell.
///
/// # Errors
/// The output cannot be made.
pub fn completions(shell: Shell, command: Command, printer: &Printer) -> Result<()> {
    let recipes: Vec<&str> = built_in::recipes().collect();
    let mut command = with_recipes(command, &recipes);
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "dsconv", &mut text);
    print(beside_files(shell, String::from_utf8_lossy(&text).into_owned(), &recipes.join(" ")).as_bytes(), printer)
}

/// The commands that take a recipe as their argument `config`.
const OF_RECIPES: [&str; 3] = ["distill", "sweep", "train"];

/// Offers the recipes where a command takes one.
fn with_recipes(command: Command, recipes: &[&'static str]) -> Command {
    OF_RECIPES.iter().fold(command, |command, name| {
        command.mut_subcommand(name, |inner| {
            inner.mut_arg("config", |arg| arg.value_parser(PossibleValuesParser::new(recipes)))
        })
    })
}

/// Offers files beside the recipes, which zsh takes for all that there is, and offers recipes in fish, for which clap writes none.
/// Other shells offer files by themselves.
fn beside_files(shell: Shell, text: String, recipes: &str) -> String {
    match shell {
        Shell::Zsh => text.replace(
            &format!(":({recipes})'"),
            &format!(":{{_alternative \"recipes:recipe:({recipes})\" \"files:file:_files\"}}'"),
        ),
        Shell::Fish => OF_RECIPES.iter().fold(text, |text, name| {
            text + &format!("complete -c dsconv -n \"__fish_dsconv_using_subcommand {name}\" -a \"{recipes}\"\n")
        }),
        _ => text,
    }
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
