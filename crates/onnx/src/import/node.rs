//! Nodes of the file and their attributes.
use super::error::Result;
use crate::proto::{AttributeProto, AttributeType, GraphProto, NodeProto, TensorProto};

/// A node of the file.
#[derive(Clone, Copy)]
pub(super) struct Node<'a>(pub &'a NodeProto);

impl<'a> Node<'a> {
    /// Returns the operator.
    pub fn op(self) -> &'a str {
        &self.0.op_type
    }

    /// Returns the name for messages.
    pub fn title(self) -> &'a str {
        match self.0.name.as_str() {
            "" => self.0.output.first().map_or("", String::as_str),
            name => name,
        }
    }

    /// Returns the operator, with the domain where that is not the standard one.
    pub fn full_op(self) -> String {
        if self.is_standard() { self.op().to_owned() } else { format!("{}.{}", self.0.domain, self.op()) }
    }

    pub fn is_standard(self) -> bool {
        matches!(self.0.domain.as_str(), "" | "ai.onnx")
    }

    /// Returns the name of input `index`, or `None` where it is left out.
    pub fn input(self, index: usize) -> Option<&'a str> {
        self.0.input.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    fn attribute(self, name: &str, kind: AttributeType) -> Result<Option<&'a AttributeProto>> {
        let Some(found) = self.0.attribute.iter().find(|attribute| attribute.name == name) else { return Ok(None) };
        if !found.ref_attr_name.is_empty() {
            return Err(format!("attribute `{name}` refers to a function's").into());
        }
        // Files from 2017 leave the type out.
        let undefined = found.r#type == AttributeType::Undefined as i32;
        if undefined || found.r#type == kind as i32 {
            Ok(Some(found))
        } else {
            Err(format!("attribute `{name}` is not of type {kind:?}").into())
        }
    }

    pub fn int(self, name: &str) -> Result<Option<i64>> {
        Ok(self.attribute(name, AttributeType::Int)?.map(|a| a.i.unwrap_or(0)))
    }

    pub fn flag(self, name: &str) -> Result<bool> {
        Ok(self.int(name)?.unwrap_or(0) != 0)
    }

    pub fn ints(self, name: &str) -> Result<Option<&'a [i64]>> {
        Ok(self.attribute(name, AttributeType::Ints)?.map(|a| a.ints.as_slice()))
    }

    pub fn floats(self, name: &str) -> Result<Option<&'a [f32]>> {
        Ok(self.attribute(name, AttributeType::Floats)?.map(|a| a.floats.as_slice()))
    }

    pub fn float(self, name: &str) -> Result<Option<f32>> {
        Ok(self.attribute(name, AttributeType::Float)?.map(|a| a.f.unwrap_or(0.0)))
    }

    /// Returns a finite float as the shortest decimal that rounds to it, which is 1e-5 and not 9.99999975e-6.
    pub fn decimal(self, name: &str, default: f64) -> Result<f64> {
        let Some(value) = self.float(name)? else { return Ok(default) };
        if !value.is_finite() {
            return Err(format!("attribute `{name}` is not finite").into());
        }
        Ok(decimal(value))
    }

    pub fn string(self, name: &str) -> Result<Option<&'a str>> {
        let Some(found) = self.attribute(name, AttributeType::String)? else { return Ok(None) };
        std::str::from_utf8(&found.s).map(Some).map_err(|_| format!("attribute `{name}` is not text").into())
    }

    pub fn tensor(self, name: &str) -> Result<Option<&'a TensorProto>> {
        Ok(self.attribute(name, AttributeType::Tensor)?.and_then(|a| a.t.as_ref()))
    }

    pub fn graph(self, name: &str) -> Result<&'a GraphProto> {
        let found = self.attribute(name, AttributeType::Graph)?.and_then(|a| a.g.as_deref());
        found.ok_or_else(|| format!("lacks `{name}`").into())
    }
}

/// Returns the shortest decimal that rounds to this f32.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
