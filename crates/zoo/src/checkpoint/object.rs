//! The objects that a pickle makes. They refer to each other by number.
use std::ops::Range;

use super::fault::{Result, broken};

/// The limit of objects that a file's pickles may make.
const MAX_OBJECTS: usize = 1 << 22;
/// The limit of bytes of all strings that are kept.
const MAX_TEXT: u64 = 1 << 28;
/// The limit of steps of a file's pickles; a gigabyte of lists has no more.
const MAX_STEPS: u64 = 1 << 25;

/// The number of an object in an [`Arena`].
pub(super) type Id = u32;

/// An object that a pickle makes.
#[derive(Debug)]
pub(super) enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A string, and the position of its UTF-8 in the file, if it is stored unchanged.
    Text(Box<str>, Option<u64>),
    /// A range of the file with bytes, the UTF-8 of a long string, or an integer of more than 64 bits.
    Bytes(Range<u64>),
    /// A list, tuple or set.
    Sequence(Vec<Id>),
    /// A dictionary: its keys and values.
    Dict(Vec<(Id, Id)>),
    /// A class or function, by its name `module.name`.
    Class(Box<str>),
    /// An object outside the pickle, by its key.
    Persistent(Id),
    /// An object of a class, or the result of a call.
    Instance(Box<Instance>),
}

/// An object of a class, or the result of a call, which is recorded instead of made.
#[derive(Debug)]
pub(super) struct Instance {
    /// The class or function.
    pub(super) class: Id,
    /// The sequence of arguments.
    pub(super) args: Id,
    /// The attributes.
    pub(super) state: Option<Id>,
    /// The items that were set, if it is a dictionary.
    pub(super) items: Vec<(Id, Id)>,
    /// The items that were appended, if it is a list.
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
    /// Returns the object of a number that this arena gave.
    pub(super) fn get(&self, id: Id) -> &Object {
        &self.objects[id as usize]
    }

    /// Returns an empty arena that continues the counts, for a file within the file.
    pub(super) fn next(&self) -> Self {
        Self { objects: vec![], ..*self }
    }

    /// Takes over the counts of an arena that [`Arena::next`] made.
    pub(super) fn resume(&mut self, next: &Self) {
        (self.steps, self.text) = (next.steps, next.text);
    }

    /// Returns all objects.
    pub(super) fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Returns a string, if the object is one that is kept in memory.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Object::Text(text, _) => Some(text),
            _ => None,
        }
    }

    /// Returns an integer, if the object is one or a boolean.
    pub(super) fn int(&self, id: Id) -> Option<i64> {
        match *self.get(id) {
            Object::Int(value) => Some(value),
            Object::Bool(value) => Some(value.into()),
            _ => None,
        }
    }

    /// Returns the elements, if the object is a list, tuple or set.
    pub(super) fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Object::Sequence(items) => Some(items),
            Object::Instance(instance) if !instance.list.is_empty() => Some(&instance.list),
            // The elements of `set([...])` and `torch.Size((...))` are those of the only argument.
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

    /// Returns the integers, if the object is a sequence of non-negative ones.
    pub(super) fn sizes(&self, id: Id) -> Option<Vec<usize>> {
        self.sequence(id)?.iter().map(|&item| usize::try_from(self.int(item)?).ok()).collect()
    }

    /// Returns the keys and values, if the object is a dictionary of any class.
    pub(super) fn pairs(&self, id: Id) -> Option<Vec<(Id, Id)>> {
        match self.get(id) {
            Object::Dict(items) => Some(items.clone()),
            Object::Instance(instance) if !instance.items.is_empty() => Some(instance.items.clone()),
            // It may be empty, or Python 2's `OrderedDict([[key, value], ...])`.
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

    /// Returns the instance and the name of its class or function, if the object is one.
    pub(super) fn instance(&self, id: Id) -> Option<(&str, &Instance)> {
        match self.get(id) {
            Object::Instance(instance) => match self.get(instance.class) {
                Object::Class(class) => Some((class, instance)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Returns the object of a number, to be changed.
    pub(super) fn get_mut(&mut self, id: Id) -> &mut Object {
        &mut self.objects[id as usize]
    }

    /// Counts a step of a pickle, and fails beyond the limit.
    pub(super) fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps > MAX_STEPS { broken("its pickle takes too many steps") } else { Ok(()) }
    }

    /// Counts bytes of text that is kept, and fails beyond the limit.
    pub(super) fn keep_text(&mut self, len: usize) -> Result<()> {
        self.text += len as u64;
        if self.text > MAX_TEXT { broken("its pickle holds too much text") } else { Ok(()) }
    }

    /// Adds an object and returns its number.
    pub(super) fn push(&mut self, object: Object) -> Result<Id> {
        if self.objects.len() == MAX_OBJECTS {
            return broken("its pickle makes too many objects");
        }
        self.objects.push(object);
        Ok((self.objects.len() - 1) as Id)
    }
}
