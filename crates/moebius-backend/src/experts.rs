//! What every backend does alike around its experts: comparing a call with the spec, and asking for biases.

use candle_core::Tensor;
use moebius_router::Routing;

use crate::{Error, ExpertSource, ExpertSpec, Projection, Result};

/// The biases of all experts of a layer, one expert after another; `None` where there are none.
#[derive(Clone, Debug, Default)]
pub struct BankBiases {
    /// `[experts, intermediate]`.
    pub gate: Option<Vec<f32>>,
    /// `[experts, intermediate]`.
    pub up: Option<Vec<f32>>,
    /// `[experts, hidden]`.
    pub down: Option<Vec<f32>>,
}

impl ExpertSpec {
    /// Tokens and width of `x: [tokens, hidden]`, which `routing` must fit.
    ///
    /// # Errors
    /// [`Error::Shape`] for other tokens or experts than those of the routing, or another width than the experts'.
    pub fn check_call(&self, x: &Tensor, routing: &Routing) -> Result<(usize, usize)> {
        let (tokens, hidden) = x.dims2()?;
        if routing.tokens() != tokens || routing.n_experts() != self.n_experts {
            return Err(Error::Shape {
                what: "routing".into(),
                expected: format!("{tokens} tokens over {} experts", self.n_experts),
                got: format!("{} tokens over {} experts", routing.tokens(), routing.n_experts()),
            });
        }
        if hidden != self.hidden {
            return Err(Error::Shape {
                what: "expert input".into(),
                expected: format!("[{tokens}, {}]", self.hidden),
                got: format!("[{tokens}, {hidden}]"),
            });
        }
        Ok((tokens, hidden))
    }

    /// Asks `source` for every bias that [`ExpertSpec::biases`] promises.
    ///
    /// # Errors
    /// [`Error::Shape`] for a bias that does not fit; those of the source.
    pub fn read_biases(&self, source: &dyn ExpertSource) -> Result<BankBiases> {
        let bank = |projection| {
            if !(self.biases && self.projections().contains(&projection)) {
                return Ok(None);
            }
            let (rows, _) = self.shape(projection);
            let mut values = Vec::with_capacity(self.n_experts * rows);
            for expert in 0..self.n_experts {
                let bias = source.bias(expert, projection)?;
                if bias.len() != rows {
                    return Err(Error::Shape {
                        what: format!("bias of {projection:?} of expert {expert} in layer {}", self.layer),
                        expected: format!("[{rows}]"),
                        got: format!("[{}]", bias.len()),
                    });
                }
                values.extend(bias);
            }
            Ok(Some(values))
        };
        Ok(BankBiases {
            gate: bank(Projection::Gate)?,
            up: bank(Projection::Up)?,
            down: bank(Projection::Down)?,
        })
    }
}
