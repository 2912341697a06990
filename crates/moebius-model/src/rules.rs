//! How a model routes in place of what its configuration says: fewer experts in some layers, none below a share of the
//! heaviest, some never.
//!
//! Shapes: a layer is named by its index in the decoder, as everywhere; a schedule has an entry for each layer that has a
//! router, in their order.
//! Invariants: rules change a router's configuration before it is checked and loaded, never its code; a rule that no
//! layer can follow is an error of the plan, before a weight is read.

use std::cell::Cell;
use std::collections::BTreeSet;

use moebius_router::RouterConfig;

use crate::planned::PlannedRouter;
use crate::{Error, Result};

/// What routers do otherwise than configured. The default changes nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutingRules {
    /// Experts per token of each layer with a router, the first to the last; empty leaves them as they are.
    pub experts_by_layer: Vec<usize>,
    /// A chosen expert that weighs less than this share of the token's heaviest is dropped; 0 drops none. See
    /// [`RouterConfig::with_drop_below`].
    pub drop_below: f32,
    /// Decoder layers and experts that are never chosen there.
    pub masked: BTreeSet<(usize, u32)>,
}

impl RoutingRules {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == RoutingRules::default()
    }

    /// Fails unless the rules name layers that have routers, and all of them where they name each.
    pub(crate) fn check(&self, routers: &[PlannedRouter]) -> Result<()> {
        let (expected, got) = (routers.len(), self.experts_by_layer.len());
        if got != expected && got > 0 {
            let reason = format!(
                "experts by layer: expected {expected} numbers, one for each layer with a router, got {got}"
            );
            return Err(Error::Rules { reason });
        }
        let known = |layer: usize| routers.iter().any(|router| router.layer == layer);
        match self.masked.iter().find(|(layer, _)| !known(*layer)) {
            Some((layer, expert)) => {
                let reason = format!("masked expert {layer}:{expert}: layer {layer} has no router");
                Err(Error::Rules { reason })
            }
            None => Ok(()),
        }
    }
}

/// Rules under way through a model's layers.
#[derive(Debug, Default)]
pub(crate) struct Rerouting<'a> {
    rules: Option<&'a RoutingRules>,
    /// Routers that were seen.
    seen: Cell<usize>,
}

impl<'a> Rerouting<'a> {
    pub(crate) fn new(rules: &'a RoutingRules) -> Self {
        Rerouting { rules: Some(rules).filter(|rules| !rules.is_empty()), seen: Cell::new(0) }
    }

    /// Changes the router of `layer`, the next one of the model.
    ///
    /// # Errors
    /// [`Error::TopK`] for a number of experts that the layer does not have, [`Error::Rules`] for an expert.
    pub(crate) fn apply(&self, layer: usize, router: &mut RouterConfig) -> Result<()> {
        let Some(rules) = self.rules else { return Ok(()) };
        let n_experts = router.n_experts;
        let nth = self.seen.replace(self.seen.get() + 1);
        if let Some(&requested) = rules.experts_by_layer.get(nth) {
            if !(1..=n_experts).contains(&requested) {
                return Err(Error::TopK { requested, n_experts });
            }
            router.top_k = requested;
        }
        router.drop_below = rules.drop_below;
        router.masked =
            rules.masked.range((layer, 0)..=(layer, u32::MAX)).map(|&(_, expert)| expert).collect();
        match router.masked.iter().find(|&&expert| expert as usize >= n_experts) {
            Some(expert) => {
                let expected = format!("expected an expert below {n_experts} in layer {layer}, got {expert}");
                Err(Error::Rules { reason: format!("masked expert {layer}:{expert}: {expected}") })
            }
            None => Ok(()),
        }
    }

    /// An error of a router as one of the rules, if there are any that it may come from.
    pub(crate) fn blame(&self, error: moebius_router::RouterError) -> Error {
        match self.rules {
            Some(_) => Error::Rules { reason: error.to_string() },
            None => Error::Backend(error.into()),
        }
    }
}
