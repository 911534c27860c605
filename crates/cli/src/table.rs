//! Tables and figures for people.
use std::time::Duration;

/// A table of columns that line up. The first column and those named in [`Table::left`] are left-aligned, the others
/// right-aligned.
#[derive(Debug, Default)]
pub struct Table {
    head: Vec<String>,
    left: Vec<usize>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table with these headings.
    pub fn new<'a>(head: impl IntoIterator<Item = &'a str>) -> Self {
        Self { head: head.into_iter().map(str::to_owned).collect(), left: vec![0], rows: Vec::new() }
    }

    /// Left-aligns these columns too.
    pub fn left(mut self, columns: impl IntoIterator<Item = usize>) -> Self {
        self.left.extend(columns);
        self
    }

    /// Adds a row. Cells that are missing at its end are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell).replace(['\n', '\t'], " ")).collect());
    }

    /// Drops the columns that are empty in every row.
    pub fn without_empty_columns(mut self) -> Self {
        let empty = |rows: &[Vec<String>], column: usize| {
            rows.iter().all(|row| row.get(column).is_none_or(|cell| cell.is_empty() || cell == NOTHING))
        };
        for column in (1..self.head.len()).rev() {
            if empty(&self.rows, column) {
                self.head.remove(column);
                self.left.retain(|&left| left != column);
                self.left.iter_mut().filter(|left| **left > column).for_each(|left| *left -= 1);
                self.rows.iter_mut().filter(|row| row.len() > column).for_each(|row| drop(row.remove(column)));
            }
        }
        self
    }

    /// Returns the headings.
    pub fn head(&self) -> impl Iterator<Item = &str> {
        self.head.iter().map(String::as_str)
    }

    /// Returns the cells of each row.
    pub fn rows(&self) -> impl Iterator<Item = &[String]> {
        self.rows.iter().map(Vec::as_slice)
    }

    /// Returns the table as tables that are no wider than `most`, each of them with the first column and as many of the others as it
    /// has room for; whole where it fits, or where not even two columns do.
    pub fn blocks(&self, most: usize) -> Vec<Vec<String>> {
        let fits = |table: &Self| table.lines(most).iter().all(|line| width(line) <= most);
        if self.head.len() <= 2 || fits(self) {
            return vec![self.lines(most)];
        }
        let mut parts = vec![vec![0]];
        for column in 1..self.head.len() {
            let last = parts.last_mut().expect("there is one");
            last.push(column);
            if last.len() > 2 && !fits(&self.part(last)) {
                last.pop();
                parts.push(vec![0, column]);
            }
        }
        parts.iter().map(|columns| self.part(columns).lines(most)).collect()
    }

    /// Returns the table of some columns.
    fn part(&self, columns: &[usize]) -> Self {
        let of = |row: &Vec<String>| columns.iter().map(|&c| row.get(c).cloned().unwrap_or_default()).collect();
        Self {
            head: of(&self.head),
            left: (0..columns.len()).filter(|&at| self.left.contains(&columns[at])).collect(),
            rows: self.rows.iter().map(of).collect(),
        }
    }

    /// Returns the lines: the headings, a rule and the rows. Where a line would be wider than `most`, columns stand closer, and if
    /// that is not enough, left-aligned cells are wrapped between words, the widest column first, as far as this makes it fit.
    pub fn lines(&self, most: usize) -> Vec<String> {
        let columns = 0..self.head.len();
        let widest = |c: usize, of: &dyn Fn(&str) -> usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(c))
                .map(|cell| of(cell))
                .max()
                .unwrap_or(0)
                .max(width(&self.head[c]))
        };
        let mut widths: Vec<usize> = columns.clone().map(|c| widest(c, &width)).collect();
        let line_of =
            |widths: &[usize], gap: &str| widths.iter().sum::<usize>() + gap.len() * widths.len().saturating_sub(1);
        let gap = if line_of(&widths, "  ") <= most { "  " } else { " " };
        let mut wrapped: Vec<usize> = columns.filter(|c| self.left.contains(c)).collect();
        wrapped.sort_by_key(|&c| std::cmp::Reverse(widths[c]));
        let mut narrow = widths.clone();
        for c in wrapped {
            let excess = line_of(&narrow, gap).saturating_sub(most);
            let word = widest(c, &|cell| cell.split(' ').map(width).max().unwrap_or(0));
            narrow[c] = narrow[c].saturating_sub(excess).max(word);
        }
        if line_of(&narrow, gap) <= most {
            widths = narrow;
        }
        let lines = |row: &[String]| {
            let cell = |(c, &wide): (usize, &usize)| match row.get(c) {
                Some(text) if width(text) > wide => wrap(text, wide),
                text => vec![text.cloned().unwrap_or_default()],
            };
            let cells: Vec<Vec<String>> = widths.iter().enumerate().map(cell).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(0);
            let line = |y: usize| {
                let cells = cells.iter().zip(&widths).enumerate().map(|(c, (cell, &wide))| {
                    let text = cell.get(y).cloned().unwrap_or_default();
                    let space = " ".repeat(wide - width(&text));
                    if self.left.contains(&c) { text + &space } else { space + &text }
                });
                cells.collect::<Vec<_>>().join(gap).trim_end().to_owned()
            };
            (0..height).map(line).collect::<Vec<_>>()
        };
        let rule = widths.iter().map(|&wide| "-".repeat(wide)).collect::<Vec<_>>().join(gap);
        lines(&self.head).into_iter().chain([rule]).chain(self.rows.iter().flat_map(|row| lines(row))).collect()
    }
}

/// The text of a cell that has no figure.
pub const NOTHING: &str = "-";

/// Writes a percentage as `93.40`, or [`NOTHING`].
pub fn percent(value: Option<f64>) -> String {
    value.map_or(NOTHING.to_owned(), |value| format!("{value:.2}"))
}

/// Writes decibels as `21.3`, or [`NOTHING`].
pub fn decibels(value: Option<f64>) -> String {
    value.map_or(NOTHING.to_owned(), |value| format!("{value:.1}"))
}

/// Replaces the control characters that a terminal would obey: names in a file may hold anything.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// Breaks a text between words into lines of at most `wide` characters.
fn wrap(text: &str, wide: usize) -> Vec<String> {
    let options = textwrap::Options::new(wide).word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).into_iter().map(String::from).collect()
}

/// Writes a size as `1.53 MB`.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Writes a number of things: `1 layer`, `3 classes`.
pub fn counted(count: usize, thing: &str) -> String {
    let ending = match (count, thing.ends_with('s')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {thing}{ending}")
}

/// Writes a count as `25.6 M`.
pub fn count(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.1} k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", count as f64 / 1e6),
        _ => format!("{:.2} G", count as f64 / 1e9),
    }
}

/// Writes a speed with three digits: `12.3 images a second`.
pub fn rate(a_second: f64) -> String {
    let digits = (2.0 - a_second.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{a_second:.digits$} images a second")
}

/// Writes a time as `1 h 02 min`, `3 min 12 s` or `4.2 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_speak_to_the_terminal() {
        let mut table = Table::new(["name"]);
        table.row(["\u{1b}[31mred\nx".to_owned()]);
        assert_eq!(table.lines(80)[2], "\u{fffd}[31mred x");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["model", "top-1", "note"]).left([2]);
        table.row(["a".into(), "93.4".into(), "first".into()]);
        table.row(["résnet".into(), "8.0".into()]);
        let expected = ["model   top-1  note", "------  -----  -----", "a        93.4  first", "résnet    8.0"];
        assert_eq!(table.lines(80), expected);
    }

    #[test]
    fn narrow_terminals_get_closer_columns_and_wrapped_words() {
        let mut table = Table::new(["layer", "input", "size"]).left([1]);
        table.row(["conv1".into(), "A4 block 32 float, >= 0".into(), "1.5 kB".into()]);
        table.row(["layer1.0.conv1".into(), "floats".into(), "9 B".into()]);
        assert_eq!(table.lines(47)[0].len(), 47);
        assert_eq!(table.lines(46)[2], "conv1          A4 block 32 float, >= 0 1.5 kB");
        let expected = [
            "layer          input                  size",
            "-------------- -------------------- ------",
            "conv1          A4 block 32 float,   1.5 kB",
            "               >= 0",
            "layer1.0.conv1 floats                  9 B",
        ];
        assert_eq!(table.lines(42), expected);
        assert_eq!(table.lines(20), table.lines(46), "where nothing makes it fit, a row stays a line");
        assert_eq!(table.blocks(42), [table.lines(42)]);
        let [inputs, sizes] = table.blocks(27).try_into().unwrap();
        let expected = [
            "layer          input",
            "-------------- ------------",
            "conv1          A4 block 32",
            "               float, >= 0",
        ];
        assert_eq!(inputs[..4], expected);
        assert_eq!(sizes[..3], ["layer             size", "--------------  ------", "conv1           1.5 kB"]);
        assert_eq!(table.blocks(10).len(), 2, "no part has fewer than two columns");
    }

    #[test]
    fn empty_columns_go() {
        let mut table = Table::new(["model", "top-5", "note"]).left([2]);
        table.row(["a".into(), NOTHING.into(), "x".into()]);
        assert_eq!(table.without_empty_columns().lines(80), ["model  note", "-----  ----", "a      x"]);
    }

    #[test]
    fn figures_have_units() {
        assert_eq!([bytes(999), bytes(1_500), bytes(1_530_000)], ["999 B", "1.5 kB", "1.53 MB"]);
        assert_eq!([count(25_557_032), count(4_089_184_256)], ["25.6 M", "4.09 G"]);
        assert_eq!(
            [counted(1, "layer"), counted(0, "layer"), counted(2, "class")],
            ["1 layer", "0 layers", "2 classes"]
        );
        let rates = [2000.0, 12.3, 0.25, 0.0025].map(rate);
        let expected = ["2000", "12.3", "0.250", "0.00250"].map(|rate| format!("{rate} images a second"));
        assert_eq!(rates, expected);
        let times = [0.04, 4.16, 59.96, 192.0, 3725.0].map(|s| duration(Duration::from_secs_f64(s)));
        assert_eq!(times, ["0.0 s", "4.2 s", "1 min 00 s", "3 min 12 s", "1 h 02 min"]);
    }
}
