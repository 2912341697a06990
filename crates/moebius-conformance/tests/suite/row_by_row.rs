//! The reference backend, one row at a time: slow, and the same bits whatever the batch.

use candle_core::{DType, Tensor};
use moebius_backend::{
    AttentionSpan, AttentionSpec, Backend, BackendInfo, ExpertBank, ExpertSource, ExpertSpec, Linear,
    LinearSpec, Ops, Result, Unsupported, WeightSpec, WeightView, reference,
};
use moebius_conformance::ReferenceBackend;
use moebius_metering::Meter;
use moebius_router::Routing;

pub(crate) struct RowByRow(ReferenceBackend);

struct Rows(Box<dyn Linear>);

struct Experts(Box<dyn ExpertBank>);

impl RowByRow {
    pub(crate) fn new() -> Result<RowByRow> {
        Ok(RowByRow(ReferenceBackend::new()?))
    }
}

impl Backend for RowByRow {
    fn info(&self) -> &BackendInfo {
        self.0.info()
    }

    fn supports(&self, spec: &WeightSpec<'_>) -> Result<(), Unsupported> {
        self.0.supports(spec)
    }

    fn load_linear(
        &self,
        spec: &LinearSpec,
        weight: WeightView<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Box<dyn Linear>> {
        Ok(Box::new(Rows(self.0.load_linear(spec, weight, bias)?)))
    }

    fn load_experts(&self, spec: &ExpertSpec, source: &dyn ExpertSource) -> Result<Box<dyn ExpertBank>> {
        Ok(Box::new(Experts(self.0.load_experts(spec, source)?)))
    }

    fn ops(&self) -> &dyn Ops {
        self
    }
}

impl Ops for RowByRow {
    fn attention(&self, q: &Tensor, spans: &[AttentionSpan<'_>], spec: &AttentionSpec) -> Result<Tensor> {
        // The whole call checks the spans, so that rows are known to be there.
        let whole = reference::attention(q, spans, spec)?;
        let mut rows = Vec::new();
        let mut spans: Vec<_> = spans.iter().collect();
        spans.sort_by_key(|span| span.rows.start);
        for span in spans {
            for (offset, row) in span.rows.clone().enumerate() {
                let one = AttentionSpan {
                    rows: 0..1,
                    first_position: span.first_position + offset,
                    ..span.clone()
                };
                rows.push(reference::attention(&q.narrow(0, row, 1)?, &[one], spec)?);
            }
        }
        if rows.is_empty() { Ok(whole) } else { Ok(Tensor::cat(&rows, 0)?) }
    }
}

impl Linear for Rows {
    fn spec(&self) -> &LinearSpec {
        self.0.spec()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        if rows < 2 {
            return self.0.forward(x);
        }
        let outputs =
            (0..rows).map(|row| self.0.forward(&x.narrow(0, row, 1)?)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&outputs, 0)?)
    }

    fn rows(&self, ids: &[u32]) -> Result<Tensor> {
        self.0.rows(ids)
    }
}

impl ExpertBank for Experts {
    fn spec(&self) -> &ExpertSpec {
        self.0.spec()
    }

    fn forward(&self, x: &Tensor, routing: &Routing, meter: &Meter) -> Result<Tensor> {
        let whole = self.0.forward(x, routing, meter)?;
        let mut outputs = vec![whole.narrow(0, 0, 0)?.to_dtype(DType::F32)?];
        for (row, (ids, weights)) in routing.iter().enumerate() {
            let (n_experts, top_k) = (routing.n_experts(), routing.top_k());
            let one =
                Routing::from_parts(n_experts, top_k, ids.to_vec(), weights.to_vec(), routing.applies_to())?;
            outputs.push(self.0.forward(&x.narrow(0, row, 1)?, &one, &Meter::new())?);
        }
        if outputs.len() == 1 { Ok(whole) } else { Ok(Tensor::cat(&outputs[1..], 0)?) }
    }
}
