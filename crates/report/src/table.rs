use maud::{Markup, html};

/// A table with a heading for each column. Columns whose cells all look like numbers are aligned to the right.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table without rows.
    pub fn new<T: Into<String>>(headings: impl IntoIterator<Item = T>) -> Self {
        Self { headings: headings.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; cells that are missing at its end are empty.
    pub fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut row: Vec<String> = cells.into_iter().map(|cell| cell.as_ref().to_owned()).collect();
        row.resize(self.headings.len(), String::new());
        self.rows.push(row);
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(crate) fn markup(&self) -> Markup {
        let numbers: Vec<bool> = (0..self.headings.len())
            .map(|column| self.rows.iter().all(|row| is_number(&row[column])) && !self.rows.is_empty())
            .collect();
        let class = |column: usize| numbers[column].then_some("number");
        html! {
            // A wide table scrolls by itself, also by keyboard.
            div.wide tabindex="0" role="group" aria-label="table" {
                table {
                    thead { tr {
                        @for (column, heading) in self.headings.iter().enumerate() {
                            th scope="col" class=[class(column)] { (heading) }
                        }
                    } }
                    tbody {
                        @for row in &self.rows {
                            tr { @for (column, cell) in row.iter().enumerate() { td class=[class(column)] { (cell) } } }
                        }
                    }
                }
            }
        }
    }
}

/// Whether a cell is a number, perhaps with a sign before or a unit behind it, or stands for a missing one.
fn is_number(cell: &str) -> bool {
    cell.is_empty() || cell == "-" || cell.trim_start_matches(['+', '-', '−']).starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stands_for_itself_and_numbers_line_up() {
        let mut table = Table::new(["layer", "dB"]);
        table.row(["<script>alert(1)</script>", "12.5"]);
        table.row(["fc", "-"]);
        let html = table.markup().into_string();
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script>"), "{html}");
        assert_eq!(html.matches("class=\"number\"").count(), 3, "{html}");
    }
}
