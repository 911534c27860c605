//! Reports: one HTML page that holds all it shows.
//!
//! A [`Page`] is a list of [`Section`]s, and those of [`Item`]s: what is shown, not how. [`Page::render`] makes HTML of it that
//! loads nothing and runs no script. It fits a telephone and paper, follows the reader's light or dark mode, and tells
//! things apart by shape and text, not by colour alone. Every plot has its numbers beside it as a table, for screen readers and
//! for copying.
//!
//! ```
//! use report::{Item, Page, Section, Table};
//!
//! let mut table = Table::new(["network", "top-1"]);
//! table.row(["FP32", "88.50"]);
//! let page = Page {
//!     title: "A run".to_owned(),
//!     summary: "One network was measured.".to_owned(),
//!     sections: vec![Section::new("Accuracy", "In percent.").with(Item::Table(table))],
//! };
//! assert!(page.render().contains("<td>FP32</td>"));
//! ```

mod page;
mod picture;
mod plot;
mod table;

pub use page::{Item, Page, Section};
pub use picture::Picture;
pub use plot::{Bars, Histogram, Lines, Plot, Points, Series};
pub use table::Table;
