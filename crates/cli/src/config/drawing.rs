//! Lines of a config file with a caret under the place at fault.
use std::fmt;
use std::ops::Range;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, ThemeCharacters, ThemeStyles};

/// Draws the lines of `text` around `span`, in colour, with a caret and `label` under it. `name` is that of the file.
pub fn draw(name: &str, text: &str, span: Range<usize>, label: &str) -> String {
    let report = Drawing {
        source: NamedSource::new(name, text.to_owned()),
        label: LabeledSpan::new((!label.is_empty()).then(|| label.to_owned()), span.start, span.len()),
    };
    let characters = ThemeCharacters { error: String::new(), ..ThemeCharacters::unicode() };
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme { characters, styles: ThemeStyles::ansi() })
        .with_width(110)
        .with_context_lines(1)
        .with_links(false);
    let mut drawn = String::new();
    handler.render_report(&mut drawn, &report).expect("writing to a string");
    // The message stands in our own first line; what is left of its line is blank.
    drawn.lines().skip_while(|line| !line.contains('╭')).map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A file and the place to draw, as miette takes them. The message stands in our own first line.
#[derive(Debug)]
struct Drawing {
    source: NamedSource<String>,
    label: LabeledSpan,
}

impl fmt::Display for Drawing {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Drawing {}

impl miette::Diagnostic for Drawing {
    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(std::iter::once(self.label.clone())))
    }
}
