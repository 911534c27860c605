//! A survey lists the parameters of a module.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId, Reparameterization};
use burn::tensor::{Int, Tensor};

use super::scales::{BlockScales, Format, to_kernel};
use crate::shadow::Shadow;

/// A float parameter of a module.
pub struct Parameter {
    /// The names of the fields that lead to it.
    pub path: String,
    pub id: ParamId,
    /// The name of its reparameterization.
    pub reparameterization: Option<String>,
    /// The type of the struct that it is a field of.
    container: String,
    /// Whether it is a parameter of a reparameterization.
    is_nested: bool,
    rank: usize,
    kernel: Box<dyn Fn() -> Tensor<4>>,
}

impl Parameter {
    /// Says whether it is the weight of a layer that can be quantized.
    pub fn is_layer_weight(&self) -> bool {
        let layers = ["Struct:Conv1d", "Struct:Conv2d", "Struct:Conv3d", "Struct:Linear"];
        self.field() == "weight" && layers.contains(&self.container.as_str())
    }

    /// Says whether it holds a shadow weight in steps of its codes.
    pub fn is_shadow_weight(&self) -> bool {
        self.is_quantized() || (self.field() == "latent" && self.container == "Struct:DsConv2d")
    }

    /// Returns the stored value as `[Co, Ci/G, Kh, Kw]`, and a vector as `[len, 1, 1, 1]`.
    pub fn kernel(&self) -> Tensor<4> {
        (self.kernel)()
    }

    /// Returns its path in PyTorch's words, which graphs use.
    pub fn torch_name(&self) -> String {
        let field = match (self.container.as_str(), self.field()) {
            ("Struct:BatchNorm", "gamma") => "weight",
            ("Struct:BatchNorm", "beta") => "bias",
            _ => return self.path.clone(),
        };
        let owner = &self.path[..self.path.len() - self.field().len()];
        format!("{owner}{field}")
    }

    /// Returns its shape in PyTorch, whose linear weights are `[out, in]`.
    pub fn torch_shape(&self) -> Vec<usize> {
        self.kernel().dims()[..self.rank.min(4)].to_vec()
    }

    fn field(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    fn is_quantized(&self) -> bool {
        self.reparameterization.as_deref() == Some(BlockScales::NAME)
    }
}

/// A survey holds the float parameters of a module, and the formats of those that are quantized.
#[derive(Default)]
pub struct Survey {
    pub parameters: Vec<Parameter>,
    /// The formats, by the path of their tensor.
    formats: HashMap<String, Format>,
    path: Vec<String>,
    container: String,
    /// How many reparameterizations are around what is visited.
    nested: usize,
}

impl Survey {
    pub fn of<M: Module>(module: &M) -> Self {
        let mut survey = Self::default();
        module.visit(&mut survey);
        survey
    }

    /// Returns the quantized parameters with their paths.
    pub fn shadows(&self) -> Vec<(String, Shadow)> {
        let by_path: HashMap<&str, &Parameter> = self.parameters.iter().map(|p| (p.path.as_str(), p)).collect();
        let shadow = |latent: &Parameter| {
            let path = |field: &str| format!("{}.{}.{field}", latent.path, BlockScales::NAME);
            let value = |field: &str| by_path.get(path(field).as_str()).map(|p| p.kernel());
            let format = self.formats.get(&path("format"))?;
            let (scales, gain) = (value("scales")?, value("gain"));
            let shadow = Shadow { latent: latent.kernel(), scales, gain, bits: format.bits, block: format.block };
            Some((latent.path.clone(), shadow))
        };
        self.parameters.iter().filter(|p| p.is_quantized()).filter_map(shadow).collect()
    }

    /// Returns the parameters that are not quantized.
    pub fn floats(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|p| !p.is_nested && !p.is_quantized())
    }
}

const REPARAMETERIZATION: &str = "Reparameterization";

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, container: &str) {
        // A reparameterization follows its parameter.
        if container == REPARAMETERIZATION {
            self.nested += 1;
            if let Some(parameter) = self.parameters.last_mut() {
                parameter.reparameterization = Some(name.to_owned());
            }
        }
        self.path.push(name.to_owned());
        self.container = container.to_owned();
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if container == REPARAMETERIZATION {
            self.nested -= 1;
        }
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let stored = param.clone();
        self.parameters.push(Parameter {
            path: self.path.join("."),
            id: param.id,
            reparameterization: None,
            container: self.container.clone(),
            is_nested: self.nested > 0,
            rank: D,
            kernel: Box::new(move || to_kernel(stored.base())),
        });
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        if self.nested > 0
            && let Some(format) = Format::read(&Param::initialized(param.id, param.val().reshape([-1])))
        {
            self.formats.insert(self.path.join("."), format);
        }
    }
}
