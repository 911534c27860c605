use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::{Picture, Plot, Table};

/// A report.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The heading of the page and of its window.
    pub title: String,
    /// What the reader should know first, in a sentence or two.
    pub summary: String,
    /// The sections, in their order.
    pub sections: Vec<Section>,
}

/// A part of a report with a heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    title: String,
    note: String,
    items: Vec<Item>,
}

/// Something that a section shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A table.
    Table(Table),
    /// A plot, with its numbers.
    Plot(Plot),
    /// Pictures beside each other.
    Pictures(Vec<Picture>),
    /// Text as it stands in a file or on a terminal.
    Text(String),
}

impl Section {
    /// Makes a section of which nothing is shown yet. `note` says how to read it; it may be empty.
    pub fn new(title: impl Into<String>, note: impl Into<String>) -> Self {
        Self { title: title.into(), note: note.into(), items: Vec::new() }
    }

    /// Adds something to show.
    #[must_use]
    pub fn with(mut self, item: Item) -> Self {
        self.items.push(item);
        self
    }

    /// Whether it has nothing to show.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Colours, sizes and spaces. Plots take their colours from here, so that they follow the reader's mode.
const STYLE: &str = include_str!("style.css");

impl Page {
    /// Makes the page's HTML. It loads nothing and runs no script.
    pub fn render(&self) -> String {
        let sections: Vec<&Section> = self.sections.iter().filter(|section| !section.is_empty()).collect();
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    // Whatever a name or a picture holds, nothing is fetched and nothing runs.
                    meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header { h1 { (self.title) } p { (self.summary) } }
                    @if sections.len() > 2 {
                        nav aria-label="sections" { ul {
                            @for (number, section) in sections.iter().enumerate() {
                                li { a href=(format!("#s{number}")) { (section.title) } }
                            }
                        } }
                    }
                    main {
                        @for (number, section) in sections.iter().enumerate() {
                            section id=(format!("s{number}")) {
                                h2 { (section.title) }
                                @if !section.note.is_empty() { p { (section.note) } }
                                @for item in &section.items { (item.markup()) }
                            }
                        }
                    }
                }
            }
        }
        .into_string()
    }
}

impl Item {
    fn markup(&self) -> Markup {
        match self {
            Self::Table(table) => table.markup(),
            Self::Plot(plot) => plot.markup(),
            Self::Pictures(pictures) => html! { div.pictures { @for picture in pictures { (picture.markup()) } } },
            Self::Text(text) => html! { pre tabindex="0" role="group" aria-label="text" { (text) } },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_loads_nothing_and_leaves_empty_sections_out() {
        let picture = Picture::new(&[255; 12], [2, 2], "two < three".to_owned(), vec!["cat & dog".to_owned()]);
        let page = Page {
            title: "<b>run</b>".to_owned(),
            summary: String::new(),
            sections: vec![
                Section::new("nothing", ""),
                Section::new("pictures", "").with(Item::Pictures(vec![picture])),
                Section::new("config", "").with(Item::Text("a = \"</pre><script>\"".to_owned())),
            ],
        };
        let html = page.render();
        assert!(!html.contains("nothing"));
        assert!(html.contains("&lt;b&gt;run&lt;/b&gt;") && html.contains("two &lt; three"), "{html}");
        assert!(html.contains("cat &amp; dog") && html.contains("data:image/png;base64,iVBOR"), "{html}");
        for tag in ["<script", "<link", "<iframe", "http://", "https://", "url("] {
            assert!(!html.contains(tag), "{tag} in {html}");
        }
    }
}
