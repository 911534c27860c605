//! Reads Python's pickles without running anything.
//!
//! A pickle is a program for a stack machine. Here a class is only its name, a call is an [`Instance`] that records the
//! function and its arguments, and objects live in an [`Arena`] where they refer to each other by number. So a hostile pickle
//! does no harm: nothing recurses, and steps, objects and text are counted. Long strings stay in the file.
use std::collections::HashMap;

use super::fault::{Fault, Result, broken};
use super::object::{Arena, Id, Instance, Object};
use super::source::Cursor;

/// The longest string that is kept in memory, in bytes.
const LONG_TEXT: u64 = 1 << 16;

/// Reads one pickle, up to its end.
///
/// # Errors
/// An instruction does not exist or takes more from the stack than there is, or there are too many steps or objects.
pub(super) fn read(cursor: &mut Cursor, arena: &mut Arena) -> Result<Id> {
    StackMachine { cursor, arena, stack: vec![], marks: vec![], memo: HashMap::new() }.run()
}

/// The stack machine.
struct StackMachine<'a> {
    cursor: &'a mut Cursor,
    arena: &'a mut Arena,
    stack: Vec<Id>,
    /// The heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl StackMachine<'_> {
    /// Runs the program and returns its result. Comments give the names of instructions in Python's `pickletools`.
    fn run(mut self) -> Result<Id> {
        loop {
            self.arena.step()?;
            let code = self.cursor.byte()?;
            match code {
                // PROTO, FRAME
                0x80 => drop(self.cursor.byte()?),
                0x95 => drop(self.cursor.array::<8>()?),
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'N' => self.push(Object::None)?,
                0x88 => self.push(Object::Bool(true))?,
                0x89 => self.push(Object::Bool(false))?,
                // BININT, BININT1, BININT2, LONG1, LONG4
                b'J' => {
                    let value = i32::from_le_bytes(self.cursor.array()?);
                    self.push(Object::Int(value.into()))?;
                }
                b'K' => {
                    let value = self.cursor.byte()?;
                    self.push(Object::Int(value.into()))?;
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.cursor.array()?);
                    self.push(Object::Int(value.into()))?;
                }
                0x8a => {
                    let len = self.cursor.byte()?;
                    self.long(len.into())?;
                }
                0x8b => {
                    let len = self.len4()?;
                    self.long(len)?;
                }
                b'G' => {
                    let value = f64::from_be_bytes(self.cursor.array()?);
                    self.push(Object::Float(value))?;
                }
                // INT, LONG, FLOAT, STRING, UNICODE, whose argument is a line of text
                b'I' | b'L' | b'F' | b'S' | b'V' => self.line_value(code)?,
                // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8
                b'X' => {
                    let len = self.len4()?;
                    self.unicode(len)?;
                }
                0x8c => {
                    let len = self.cursor.byte()?;
                    self.unicode(len.into())?;
                }
                0x8d => {
                    let len = u64::from_le_bytes(self.cursor.array()?);
                    self.unicode(len)?;
                }
                // BINSTRING, SHORT_BINSTRING, which are text or bytes of Python 2
                b'T' => {
                    let len = self.len4()?;
                    self.string(len)?;
                }
                b'U' => {
                    let len = self.cursor.byte()?;
                    self.string(len.into())?;
                }
                // BINBYTES, SHORT_BINBYTES, BINBYTES8, BYTEARRAY8
                b'B' => {
                    let len = self.len4()?;
                    self.bytes(len)?;
                }
                b'C' => {
                    let len = self.cursor.byte()?;
                    self.bytes(len.into())?;
                }
                0x8e | 0x96 => {
                    let len = u64::from_le_bytes(self.cursor.array()?);
                    self.bytes(len)?;
                }
                b']' | b')' | 0x8f => self.push(Object::Sequence(vec![]))?,
                b'}' => self.push(Object::Dict(vec![]))?,
                // LIST, TUPLE, FROZENSET
                b'l' | b't' | 0x91 => {
                    let items = self.pop_mark()?;
                    self.push(Object::Sequence(items))?;
                }
                0x85..=0x87 => {
                    let count = usize::from(code - 0x84);
                    let items = self.pop_many(count)?;
                    self.push(Object::Sequence(items))?;
                }
                b'd' => {
                    let items = pairs(&self.pop_mark()?)?;
                    self.push(Object::Dict(items))?;
                }
                // APPEND, APPENDS, ADDITEMS
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => {
                    let items = self.pop_mark()?;
                    self.append(items)?;
                }
                // SETITEM, SETITEMS
                b's' => {
                    let items = self.pop_many(2)?;
                    self.set(pairs(&items)?)?;
                }
                b'u' => {
                    let items = pairs(&self.pop_mark()?)?;
                    self.set(items)?;
                }
                // GLOBAL, STACK_GLOBAL
                b'c' => {
                    let class = format!("{}.{}", self.line()?, self.line()?);
                    self.push(Object::Class(class.into()))?;
                }
                0x93 => {
                    let parts = self.pop_many(2)?;
                    let (Some(module), Some(name)) = (self.arena.text(parts[0]), self.arena.text(parts[1])) else {
                        return broken("its pickle names a class by something other than text");
                    };
                    let class = format!("{module}.{name}");
                    self.push(Object::Class(class.into()))?;
                }
                // REDUCE, NEWOBJ
                b'R' | 0x81 => {
                    let parts = self.pop_many(2)?;
                    self.call(parts[0], parts[1])?;
                }
                // NEWOBJ_EX, whose keywords nothing here needs
                0x92 => {
                    let parts = self.pop_many(3)?;
                    self.call(parts[0], parts[1])?;
                }
                b'o' => {
                    let mut items = self.pop_mark()?;
                    if items.is_empty() {
                        return broken(UNDERFLOW);
                    }
                    let class = items.remove(0);
                    self.call_with(class, items)?;
                }
                b'i' => {
                    let class = format!("{}.{}", self.line()?, self.line()?);
                    let args = self.pop_mark()?;
                    let class = self.arena.push(Object::Class(class.into()))?;
                    self.call_with(class, args)?;
                }
                // BUILD
                b'b' => {
                    let state = self.pop()?;
                    let top = self.top()?;
                    if let Object::Instance(instance) = self.arena.get_mut(top) {
                        instance.state = Some(state);
                    }
                }
                // PERSID, BINPERSID
                b'P' => {
                    let key = self.line()?;
                    let key = self.arena.push(Object::Text(key.into(), None))?;
                    self.push(Object::Persistent(key))?;
                }
                b'Q' => {
                    let key = self.pop()?;
                    self.push(Object::Persistent(key))?;
                }
                // GET, BINGET, LONG_BINGET
                b'g' => {
                    let key = self.line()?.parse().map_err(|_| bad_number())?;
                    self.get(key)?;
                }
                b'h' => {
                    let key = self.cursor.byte()?;
                    self.get(key.into())?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.cursor.array()?);
                    self.get(key)?;
                }
                // PUT, BINPUT, LONG_BINPUT, MEMOIZE
                b'p' => {
                    let key = self.line()?.parse().map_err(|_| bad_number())?;
                    self.put(key)?;
                }
                b'q' => {
                    let key = self.cursor.byte()?;
                    self.put(key.into())?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.cursor.array()?);
                    self.put(key)?;
                }
                0x94 => self.put(self.memo.len() as u32)?,
                // Out-of-band buffers and extension codes need data that no file holds.
                _ => return broken(format!("its pickle has the instruction {code:#04x}, which is not read")),
            }
        }
    }

    fn push(&mut self, object: Object) -> Result<()> {
        let id = self.arena.push(object)?;
        self.stack.push(id);
        Ok(())
    }

    /// Takes the top of the stack, but nothing below the last mark.
    fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.marks.last().copied().unwrap_or_default() {
            return broken(UNDERFLOW);
        }
        self.stack.pop().ok_or_else(|| Fault::Broken(UNDERFLOW.into()))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| Fault::Broken(UNDERFLOW.into()))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| Fault::Broken(UNDERFLOW.into()))?;
        Ok(self.stack.split_off(mark))
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        match self.arena.get_mut(top) {
            Object::Sequence(list) => list.extend(items),
            Object::Instance(instance) => instance.list.extend(items),
            _ => return broken("its pickle appends to what is no list"),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<(Id, Id)>) -> Result<()> {
        let top = self.top()?;
        match self.arena.get_mut(top) {
            Object::Dict(dict) => dict.extend(items),
            Object::Instance(instance) => instance.items.extend(items),
            _ => return broken("its pickle puts an item into what is no dictionary"),
        }
        Ok(())
    }

    fn call(&mut self, class: Id, args: Id) -> Result<()> {
        self.push(Object::Instance(Box::new(Instance { class, args, state: None, items: vec![], list: vec![] })))
    }

    fn call_with(&mut self, class: Id, args: Vec<Id>) -> Result<()> {
        let args = self.arena.push(Object::Sequence(args))?;
        self.call(class, args)
    }

    fn get(&mut self, key: u32) -> Result<()> {
        match self.memo.get(&key) {
            Some(&id) => self.stack.push(id),
            None => return broken(format!("its pickle recalls object {key}, which it never made")),
        }
        Ok(())
    }

    fn put(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn len4(&mut self) -> Result<u64> {
        Ok(u32::from_le_bytes(self.cursor.array()?).into())
    }

    /// Reads an integer of `len` bytes in two's complement, little-endian.
    fn long(&mut self, len: u64) -> Result<()> {
        if len > 8 {
            return self.bytes(len);
        }
        let bytes = self.cursor.bytes(len)?;
        let negative = bytes.last().is_some_and(|&top| top >= 0x80);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        self.push(Object::Int(i64::from_le_bytes(wide)))
    }

    fn bytes(&mut self, len: u64) -> Result<()> {
        let range = self.cursor.skip(len)?;
        self.push(Object::Bytes(range))
    }

    fn unicode(&mut self, len: u64) -> Result<()> {
        if len > LONG_TEXT {
            return self.bytes(len);
        }
        let at = self.cursor.at();
        let bytes = self.cursor.bytes(len)?;
        self.arena.keep_text(bytes.len())?;
        self.push(Object::Text(String::from_utf8_lossy(&bytes).into(), Some(at)))
    }

    /// Reads a string of Python 2, which is text if it is UTF-8 and else bytes.
    fn string(&mut self, len: u64) -> Result<()> {
        let range = self.cursor.skip(len)?;
        let text = match len > LONG_TEXT {
            true => None,
            false => String::from_utf8(self.cursor.source().read(range.clone())?).ok(),
        };
        self.arena.keep_text(text.as_ref().map_or(0, String::len))?;
        match text {
            Some(text) => self.push(Object::Text(text.into(), Some(range.start))),
            None => self.push(Object::Bytes(range)),
        }
    }

    /// Reads a line without its end.
    fn line(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        loop {
            match self.cursor.byte()? {
                b'\n' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                byte => bytes.push(byte),
            }
            if bytes.len() as u64 > LONG_TEXT {
                return broken("its pickle has a line that is too long");
            }
        }
    }

    fn line_value(&mut self, code: u8) -> Result<()> {
        let at = self.cursor.at();
        let line = self.line()?;
        self.arena.keep_text(line.len())?;
        self.push(match code {
            b'I' if line == "01" => Object::Bool(true),
            b'I' if line == "00" => Object::Bool(false),
            b'I' | b'L' => match line.trim_end_matches('L').parse() {
                Ok(value) => Object::Int(value),
                Err(_) => Object::Bytes(at..at + line.len() as u64),
            },
            b'F' => Object::Float(line.parse().map_err(|_| bad_number())?),
            // Escapes stay as they are written.
            b'S' => Object::Text(line.trim_matches(['\'', '"']).into(), None),
            _ => Object::Text(line.into(), None),
        })
    }
}

const UNDERFLOW: &str = "its pickle takes more from its stack than there is";

fn bad_number() -> Fault {
    Fault::Broken("its pickle has a number that is none".into())
}

/// Splits a list of alternating keys and values into pairs.
fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    match items.as_chunks() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => broken("its pickle has a key without a value"),
    }
}
