//! Which classes a float network and the one made of it named: where they differ, and what that costs.
use std::collections::BTreeMap;

use distill::Logits;
use graph::{Head, Preprocess};
use images::Unlabelled;
use report::{Item, Picture, Section, Table};

use crate::error::Result;

/// The most classes of which all pairs are shown.
const ALL_PAIRS: usize = 20;
/// The most rows of a table of classes or pairs.
const ROWS: usize = 20;
/// The most pictures.
const PICTURES: usize = 24;
/// The first classes of a picture.
const FIRST: usize = 5;

/// What two networks named for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named {
    /// Its class, where images have labels.
    pub label: Option<usize>,
    /// The class that the float network named.
    pub float: usize,
    /// The class that the other network named.
    pub other: usize,
}

/// A network beside the one that it is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Compared<'a> {
    /// What the other network is called; `None` where there is none, and what it named is this one's too.
    pub float: Option<&'a str>,
    /// What the network is called.
    pub other: &'a str,
    /// The names of the classes; empty where nobody said.
    pub classes: &'a [String],
    /// What they named for each image of a set.
    pub named: &'a [Named],
}

impl Compared<'_> {
    /// Chooses the images to show: some of those for which the two named different classes, spread over the set.
    pub fn differing(&self) -> Vec<usize> {
        let all: Vec<usize> =
            (0..self.named.len()).filter(|&image| self.named[image].float != self.named[image].other).collect();
        let count = all.len().min(PICTURES);
        (0..count).map(|i| all[i * all.len() / count]).collect()
    }

    /// The classes that lost most, and the pairs of classes that are taken for each other; nothing without labels.
    pub fn sections(&self) -> Vec<Section> {
        let labelled: Vec<(usize, Named)> =
            self.named.iter().filter_map(|named| Some((named.label?, *named))).collect();
        if labelled.is_empty() {
            return Vec::new();
        }
        vec![self.losses(&labelled), self.confusions(&labelled)]
    }

    fn name(&self, class: usize) -> String {
        self.classes.get(class).map_or_else(|| format!("class {class}"), Clone::clone)
    }

    fn losses(&self, labelled: &[(usize, Named)]) -> Section {
        // Images, and those that each network got right.
        let mut classes: BTreeMap<usize, [i64; 3]> = BTreeMap::new();
        for &(label, named) in labelled {
            let [count, float, other] = classes.entry(label).or_default();
            *count += 1;
            *float += i64::from(named.float == label);
            *other += i64::from(named.other == label);
        }
        let mut classes: Vec<(usize, [i64; 3])> = classes.into_iter().collect();
        classes.sort_by_key(|&(class, [_, float, other])| (other - float, class));
        if self.float.is_none() {
            // Nothing to lose against: by the part that is right.
            classes.sort_by_key(|&(class, [count, _, other])| (other * 10_000 / count, class));
        }
        let right = |name: &str| format!("{name}: right");
        let change = |by: i64| if by == 0 { "0".to_owned() } else { format!("{by:+}") };
        let beside = self.float.map(|float| [right(float), "change".to_owned()]);
        let head = ["class".to_owned(), "images".to_owned(), right(self.other)];
        let mut table = Table::new(head.into_iter().chain(beside.into_iter().flatten()));
        for &(class, [count, float, other]) in classes.iter().take(ROWS) {
            let beside = self.float.map(|_| [float.to_string(), change(other - float)]);
            let first = [self.name(class), count.to_string(), other.to_string()];
            table.row(first.into_iter().chain(beside.into_iter().flatten()));
        }
        let what = if self.float.is_some() { "lost most" } else { "are right least often" };
        let note = match classes.len() > ROWS {
            true => format!("Counts of images for the {ROWS} of {} classes that {what}.", classes.len()),
            false => format!("Counts of images; first the classes that {what}."),
        };
        Section::new("Classes", note).with(Item::Table(table))
    }

    fn confusions(&self, labelled: &[(usize, Named)]) -> Section {
        let mut pairs: BTreeMap<(usize, usize), [u64; 2]> = BTreeMap::new();
        for &(label, named) in labelled {
            pairs.entry((label, named.float)).or_default()[0] += 1;
            pairs.entry((label, named.other)).or_default()[1] += 1;
        }
        let last = pairs.keys().map(|&(label, named)| label.max(named)).max().unwrap_or(0);
        let classes = self.classes.len().max(last + 1);
        if classes <= ALL_PAIRS {
            let mut table = Table::new(std::iter::once("class".to_owned()).chain((0..classes).map(|c| self.name(c))));
            for label in 0..classes {
                let cells = (0..classes).map(|named| match pairs.get(&(label, named)) {
                    Some([_, other]) if *other > 0 => other.to_string(),
                    _ => String::new(),
                });
                table.row(std::iter::once(self.name(label)).chain(cells));
            }
            let note = format!("Rows are the images' classes, columns what {} named; counts of images.", self.other);
            return Section::new("Confusion", note).with(Item::Table(table));
        }
        let mut wrong: Vec<_> =
            pairs.into_iter().filter(|((label, named), [_, other])| label != named && *other > 0).collect();
        wrong.sort_by_key(|&(pair, [float, other])| (std::cmp::Reverse(other), float, pair));
        let by = |name: &str| format!("by {name}");
        let head = ["class".to_owned(), "taken for".to_owned(), by(self.other)];
        let mut table = Table::new(head.into_iter().chain(self.float.map(by)));
        for ((label, named), [float, other]) in wrong.into_iter().take(ROWS) {
            let first = [self.name(label), self.name(named), other.to_string()];
            table.row(first.into_iter().chain(self.float.map(|_| float.to_string())));
        }
        let note =
            format!("The classes that are taken for another one most often: at most {ROWS} pairs, counts of images.");
        Section::new("Confusion", note).with(Item::Table(table))
    }

    /// Shows `images`, those of [`differing`](Self::differing) in that order, with the first classes of both networks.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn pictures(
        &self,
        images: &Unlabelled,
        labels: &[Option<usize>],
        [float, other]: [&Logits; 2],
        preprocess: &Preprocess,
    ) -> Result<Section> {
        let normaliser = preprocess.normaliser();
        let mut pictures = Vec::new();
        for (image, &label) in labels.iter().enumerate() {
            let (Some(theirs), Some(own)) = (float.of(image), other.of(image)) else { continue };
            let batch = images.batch(&[image])?;
            let [_, _, height, width] = batch.shape;
            if batch.indices.is_empty() {
                continue;
            }
            let mut lines = vec![images.image_name(image)];
            lines.extend(label.map(|label| format!("is {}", self.name(label))));
            lines.extend(self.float.map(|name| format!("{name}: {}", self.first(float.head(), theirs))));
            lines.push(format!("{}: {}", self.other, self.first(other.head(), own)));
            let description = format!("picture {}", images.image_name(image));
            pictures.push(Picture::new(&normaliser.rgb(&batch.pixels), [height, width], description, lines));
        }
        let differ = self.named.iter().filter(|named| named.float != named.other).count();
        let note = format!(
            "The two networks name different classes for {differ} of {} images. {} of them as the networks see them, with the first \
             classes of both.",
            self.named.len(),
            pictures.len()
        );
        let section = Section::new("Where they differ", note);
        Ok(if pictures.is_empty() { section } else { section.with(Item::Pictures(pictures)) })
    }

    /// The first classes of an image with their probabilities.
    fn first(&self, head: Head, outputs: &[f32]) -> String {
        let mut classes: Vec<(usize, f64)> = head.probabilities(outputs).into_iter().enumerate().collect();
        classes.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let shown = classes.iter().take(FIRST).map(|&(class, p)| format!("{} {:.0} %", self.name(class), 100.0 * p));
        shown.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(sections: Vec<Section>) -> String {
        report::Page { title: String::new(), summary: String::new(), sections }.render()
    }

    #[test]
    fn classes_that_lost_most_come_first() {
        let classes = ["cat", "dog"].map(str::to_owned);
        let of = |label, float, other| Named { label: Some(label), float, other };
        let named = [of(0, 0, 0), of(0, 0, 0), of(1, 1, 0), of(1, 0, 0)];
        let compared = Compared { float: Some("FP32"), other: "W4A4", classes: &classes, named: &named };
        assert_eq!(compared.differing(), [2]);
        let html = shown(compared.sections());
        assert!(html.find("<td>dog</td>").unwrap() < html.find("<td>cat</td>").unwrap(), "{html}");
        assert!(html.contains("<td class=\"number\">-1</td>"), "{html}");
        // Both dogs were taken for cats.
        assert!(html.contains("<td>dog</td><td class=\"number\">2</td><td class=\"number\"></td>"), "{html}");
    }

    #[test]
    fn of_many_classes_only_the_worst_pairs_are_shown() {
        let of = |label, other| Named { label: Some(label), float: label, other };
        let named: Vec<Named> = (0..100).map(|i| of(i, if i < 30 { 99 - i } else { i })).collect();
        let of_all = Compared { float: None, other: "W4A4", classes: &[], named: &named };
        let html = shown(of_all.sections());
        assert!(html.contains("<td>class 0</td><td>class 99</td>"), "{html}");
        assert_eq!(html.matches("<td>class 99</td>").count(), 1, "{html}");
        let unlabelled = [Named { label: None, float: 0, other: 1 }];
        assert!(Compared { named: &unlabelled, ..of_all }.sections().is_empty());
    }
}
