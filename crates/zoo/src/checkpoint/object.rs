//! What a pickle makes: objects that refer to each other by number.
use std::ops::Range;

use super::fault::{Result, broken};

/// Objects of a file's pickles.
const MAX_OBJECTS: usize = 1 << 22;
/// Bytes of all strings that are kept.
const MAX_TEXT: u64 = 1 << 28;
/// Steps of a file's pickles: a gigabyte of lists has no more.
const MAX_STEPS: u64 = 1 << 25;

/// An object of an [`Arena`].
pub(super) type Id = u32;

/// What a pickle can make.
#[derive(Debug)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A string, and where its UTF-8 begins in the file, if it is there as it is.
    Text(Box<str>, Option<u64>),
    /// Bytes, or a long string's UTF-8, or an integer of more than 64 bits, as a range of the file.
    Bytes(Range<u64>),
    /// A list, tuple or set.
    Sequence(Vec<Id>),
    /// Keys and values.
    Dict(Vec<(Id, Id)>),
    /// A class or function: `module.name`.
    Class(Box<str>),
    /// What the file holds outside the pickle under this key.
    Persistent(Id),
    /// An object of a class, or what a call would give.
    Instance(Box<Instance>),
}

/// An object of a class, or what a call would give: nothing is called.
#[derive(Debug)]
pub(super) struct Instance {
    /// The class or function.
    pub(super) class: Id,
    /// What it is made from, a sequence.
    pub(super) args: Id,
    /// Its attributes.
    pub(super) state: Option<Id>,
    /// What was put in, where it is a dictionary.
    pub(super) items: Vec<(Id, Id)>,
    /// What was appended, where it is a list.
    pub(super) list: Vec<Id>,
}

/// The objects of a file's pickles.
#[derive(Debug, Default)]
pub(super) struct Arena {
    objects: Vec<Object>,
    steps: u64,
    text: u64,
}

impl Arena {
    /// The object of a number that this arena gave.
    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id as usize]
    }

    /// An empty one that goes on counting steps, for a file within the file.
    pub(super) fn next(&self) -> Self {
        Self { objects: vec![], ..*self }
    }

    /// Takes over the count of steps of the one that went on.
    pub(super) fn resume(&mut self, next: &Self) {
        (self.steps, self.text) = (next.steps, next.text);
    }

    /// All objects.
    pub(super) fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// A string that is kept.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Object::Text(text, _) => Some(text),
            _ => None,
        }
    }

    /// An integer.
    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match *self.get(id) {
            Object::Int(value) => Some(value),
            Object::Bool(value) => Some(value.into()),
            _ => None,
        }
    }

    /// The elements of a list, tuple or set.
    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Object::Sequence(items) => Some(items),
            Object::Instance(instance) if !instance.list.is_empty() => Some(&instance.list),
            // `set([...])`, `torch.Size((...))`: what the only argument holds.
            Object::Instance(instance) if instance.items.is_empty() && instance.state.is_none() => {
                match (self.get(instance.class), self.get(instance.args)) {
                    (Object::Class(_), Object::Sequence(args)) => match args[..] {
                        [only] => match self.get(only) {
                            Object::Sequence(items) => Some(items),
                            _ => None,
                        },
                        _ => None,
                    },
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Integers of 0 and more in a sequence.
    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.sequence(id)?.iter().map(|&item| usize::try_from(self.int(item)?).ok()).collect()
    }

    /// Keys and values of a dictionary of any class.
    pub(super) fn pairs(&self, id: Id) -> Option<Vec<(Id, Id)>> {
        match self.get(id) {
            Object::Dict(items) => Some(items.clone()),
            Object::Instance(instance) if !instance.items.is_empty() => Some(instance.items.clone()),
            // An empty one, and Python 2's `OrderedDict([[key, value], ...])`.
            Object::Instance(instance) => match self.get(instance.class) {
                Object::Class(class) if class.ends_with("Dict") => {
                    let args = self.sequence(instance.args)?;
                    let pair = |&pair: &Id| match *self.sequence(pair)? {
                        [key, value] => Some((key, value)),
                        _ => None,
                    };
                    args.first().map_or(Some(vec![]), |&list| self.sequence(list)?.iter().map(pair).collect())
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// An object of a class, or a call, with the name of class or function.
    pub(super) fn instance(&self, id: Id) -> Option<(&str, &Instance)> {
        match self.get(id) {
            Object::Instance(instance) => match self.get(instance.class) {
                Object::Class(class) => Some((class, instance)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The object of a number, to be changed.
    pub(super) fn get_mut(&mut self, id: Id) -> &mut Object {
        &mut self.objects[id as usize]
    }

    /// Counts a step of a pickle.
    pub(super) fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS { broken("its pickle takes too many steps") } else { Ok(()) }
    }

    /// Counts bytes of text that is kept.
    pub(super) fn keep_text(&mut self, len: usize) -> Result<()> {
        self.text += len as u64;
        if self.text > MAX_TEXT { broken("its pickle holds too much text") } else { Ok(()) }
    }

    /// Takes an object in.
    pub(super) fn push(&mut self, object: Object) -> Result<Id> {
        if self.objects.len() == MAX_OBJECTS {
            return broken("its pickle makes too many objects");
        }
        self.objects.push(object);
        Ok((self.objects.len() - 1) as Id)
    }
}
