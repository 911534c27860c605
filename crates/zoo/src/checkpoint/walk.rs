//! Collects tensors and class names from the objects that a pickle makes.
use std::collections::{BTreeMap, HashSet};

use super::content::{CLASS_KEYS, CheckpointContent, TensorEntry};
use super::fault::{Result, broken, refused};
use super::module::ModuleSettings;
use super::object::{Arena, Id, Instance, Object};
use super::torch;

/// The limit of tensors in one file; a network of a thousand, with its optimizer and averages, has a tenth.
const MAX_TENSORS: usize = 1 << 15;
/// The limit of the depth of dictionaries and modules in one another.
const MAX_DEPTH: usize = 48;
/// The limit of bytes of a tensor's path; a longer one is not that of a parameter.
const MAX_PATH: usize = 1 << 10;
/// The limit of elements of a list that is searched for tensors.
const MAX_LIST: usize = 256;

/// Collects the content of a file.
///
/// # Errors
/// A tensor lies outside of its storage, or there are no tensors.
pub(super) fn content(file: &torch::TorchFile) -> Result<CheckpointContent> {
    let mut walk = Walk { file, content: CheckpointContent::default(), seen: HashSet::new() };
    walk.visit(file.root, "", None, 0)?;
    let content = walk.content;
    if content.entries.is_empty() {
        let what = match file.scripted {
            true => "a TorchScript archive whose parameters have no names, as after `torch.jit.freeze`",
            false => "a pickle without tensors",
        };
        return refused(what, "save the parameters: `torch.save(model.state_dict(), \"weights.pth\")`");
    }
    Ok(content)
}

/// A walk over the objects from the root.
struct Walk<'a> {
    file: &'a torch::TorchFile,
    content: CheckpointContent,
    /// The objects that were visited; one that two keys share is found under the first.
    seen: HashSet<Id>,
}

impl Walk<'_> {
    /// Visits an object. `group` is the module tree that contains it, if there is one.
    fn visit(&mut self, id: Id, path: &str, group: Option<usize>, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH || !self.seen.insert(id) {
            return Ok(());
        }
        let arena = &self.file.arena;
        if let Object::Instance(instance) = arena.get(id) {
            let attributes = attributes(arena, instance);
            self.classes(&attributes);
            let attribute = |name: &str| attributes.iter().find(|(key, _)| key == name).map(|&(_, id)| id);
            if let Some(modules) = attribute("_modules") {
                if self.content.layers.len() < MAX_TENSORS && path.len() < MAX_PATH {
                    self.content.layers.extend(ModuleSettings::read(arena, path, &attributes));
                }
                let group = group.unwrap_or_else(|| self.new_group());
                let hidden = attribute("_non_persistent_buffers_set").and_then(|set| arena.sequence(set));
                let hidden: Vec<&str> = hidden.unwrap_or_default().iter().filter_map(|&id| arena.text(id)).collect();
                let named = |id: Option<Id>| id.and_then(|id| arena.pairs(id)).map(|pairs| keyed(arena, &pairs));
                let mut children = named(attribute("_parameters")).unwrap_or_default();
                let buffers = named(attribute("_buffers")).unwrap_or_default();
                children.extend(buffers.into_iter().filter(|(name, _)| !hidden.contains(&name.as_str())));
                children.extend(named(Some(modules)).unwrap_or_default());
                return self.children(&children, path, (group, true), depth);
            }
            let scripted = matches!(arena.get(instance.class), Object::Class(name) if name.starts_with("__torch__."));
            if scripted {
                let group = group.unwrap_or_else(|| self.new_group());
                return self.children(&attributes, path, (group, true), depth);
            }
            let mut children = keyed(arena, &arena.pairs(id).unwrap_or_default());
            self.classes(&children);
            children.extend(attributes);
            let group = self.new_group();
            return self.children(&children, path, (group, false), depth);
        }
        if let Some(pairs) = arena.pairs(id) {
            let children = keyed(arena, &pairs);
            self.classes(&children);
            let group = self.new_group();
            return self.children(&children, path, (group, false), depth);
        }
        if let Some(items) = arena.sequence(id).filter(|items| items.len() <= MAX_LIST) {
            let children: Vec<_> = items.iter().enumerate().map(|(i, &item)| (i.to_string(), item)).collect();
            let group = self.new_group();
            return self.children(&children, path, (group, false), depth);
        }
        Ok(())
    }

    /// Visits the children of an object. Tensors join its group, and so do the modules of a module; other children begin
    /// groups of their own.
    fn children(
        &mut self,
        children: &[(String, Id)],
        path: &str,
        (group, modules): (usize, bool),
        depth: usize,
    ) -> Result<()> {
        for (name, id) in children {
            if path.len() + name.len() > MAX_PATH {
                continue;
            }
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if let Some(tensor) = self.file.tensor(*id)? {
                if self.content.entries.len() == MAX_TENSORS {
                    return broken(format!("more than {MAX_TENSORS} tensors"));
                }
                self.content.entries.push(TensorEntry { path, group, tensor });
                continue;
            }
            self.visit(*id, &path, modules.then_some(group), depth + 1)?;
        }
        Ok(())
    }

    fn new_group(&mut self) -> usize {
        self.content.groups += 1;
        self.content.groups - 1
    }

    /// Collects the lists of class names among keys and values.
    fn classes(&mut self, children: &[(String, Id)]) {
        for (key, id) in children {
            if CLASS_KEYS.contains(&key.to_lowercase().as_str())
                && let Some(names) = class_names(&self.file.arena, *id)
                && self.content.classes.len() < MAX_LIST
                && !self.content.classes.contains(&names)
            {
                self.content.classes.push(names);
            }
        }
    }
}

/// Returns the attributes of an object, by name.
fn attributes(arena: &Arena, instance: &Instance) -> Vec<(String, Id)> {
    let Some(mut state) = instance.state else { return vec![] };
    // The state of an object with slots is `(__dict__, slots)`.
    if let Some(&[dict, _]) = arena.sequence(state) {
        state = dict;
    }
    keyed(arena, &arena.pairs(state).unwrap_or_default())
}

/// Returns the pairs whose keys are text or integers. The last of equal keys counts, as in Python.
fn keyed(arena: &Arena, pairs: &[(Id, Id)]) -> Vec<(String, Id)> {
    let key = |id| arena.text(id).map(str::to_owned).or_else(|| arena.int(id).map(|key| key.to_string()));
    let mut keyed: Vec<(String, Id)> = Vec::new();
    let mut at = BTreeMap::new();
    for &(id, value) in pairs {
        let Some(key) = key(id) else { continue };
        match at.get(&key) {
            Some(&index) => {
                let entry: &mut (String, Id) = &mut keyed[index];
                entry.1 = value;
            }
            None => {
                at.insert(key.clone(), keyed.len());
                keyed.push((key, value));
            }
        }
    }
    keyed
}

/// Reads class names from a list, or from a dictionary between names and the numbers 0, 1, 2, ...
fn class_names(arena: &Arena, id: Id) -> Option<Vec<String>> {
    let text = |id| arena.text(id).map(str::to_owned);
    let Some(pairs) = arena.pairs(id) else {
        return arena
            .sequence(id)?
            .iter()
            .map(|&item| text(item))
            .collect::<Option<Vec<_>>>()
            .filter(|n| !n.is_empty());
    };
    let number = |id| arena.int(id).or_else(|| arena.text(id)?.parse().ok());
    let mut numbered = pairs
        .iter()
        .map(|&(key, value)| match (arena.int(value), text(key)) {
            (Some(at), Some(name)) => Some((at, name)),
            _ => Some((number(key)?, text(value)?)),
        })
        .collect::<Option<Vec<_>>>()?;
    numbered.sort();
    let complete = !numbered.is_empty() && numbered.iter().enumerate().all(|(i, (at, _))| *at == i as i64);
    complete.then(|| numbered.into_iter().map(|(_, name)| name).collect())
}
