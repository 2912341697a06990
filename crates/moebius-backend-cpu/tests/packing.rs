//! Matrices that were packed before: held where they lie, and refused if they are anything else than the spec's.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use moebius_backend::{Backend, Error, LinearSpec, Packer, PanelBytes, WeightFormat, WeightView};
use moebius_backend_cpu::{CpuBackend, CpuOptions};

const SHAPE: (usize, usize) = (33, 64);

fn backend() -> CpuBackend {
    CpuBackend::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).expect("it starts")
}

fn spec(format: WeightFormat) -> LinearSpec {
    LinearSpec { name: "projection".into(), inputs: SHAPE.1, outputs: SHAPE.0, format }
}

/// A matrix as a file stores it.
fn stored() -> WeightView<'static> {
    let values = (0..SHAPE.0 * SHAPE.1).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0);
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    WeightView::new("projection", WeightFormat::F32, SHAPE, bytes)
}

/// Packed bytes at the start of a cache line.
fn kept(bytes: &[u8]) -> PanelBytes {
    let mut buffer = vec![0; bytes.len() + 64];
    let start = buffer.as_ptr().align_offset(64);
    buffer[start..start + bytes.len()].copy_from_slice(bytes);
    PanelBytes { owner: Arc::new(buffer), range: start..start + bytes.len(), file: None }
}

/// The bits of a product with a loaded matrix.
fn product(backend: &CpuBackend, format: WeightFormat, view: WeightView<'_>) -> Vec<u32> {
    let linear = backend.load_linear(&spec(format), view, None).expect("it loads");
    let x: Vec<f32> = (0..3 * SHAPE.1).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
    let x = Tensor::from_vec(x, (3, SHAPE.1), &Device::Cpu).expect("it fits");
    let y = linear.forward(&x).expect("it computes").flatten_all().expect("a row");
    y.to_vec1::<f32>().expect("f32").into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_matrix_in_panels_gives_the_bits_of_the_one_that_was_stored() {
    let backend = backend();
    for format in [WeightFormat::F32, WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Mxfp4] {
        let bytes = backend.pack(&stored(), format).expect("it packs");
        assert_eq!(Some(bytes.len()), format.packed_bytes_for(SHAPE.0, SHAPE.1), "{format}");
        let view = WeightView::in_panels("projection", format, SHAPE, kept(&bytes));
        assert_eq!(product(&backend, format, view), product(&backend, format, stored()), "{format}");
    }
}

#[test]
fn panels_of_another_format_shape_or_length_are_errors_that_name_the_tensor() {
    let backend = backend();
    let bytes = backend.pack(&stored(), WeightFormat::Q8_0).expect("it packs");
    let load = |format, shape, bytes: &[u8]| {
        let view = WeightView::in_panels("projection", format, shape, kept(bytes));
        backend.load_linear(&spec(WeightFormat::Q8_0), view, None).err()
    };
    assert!(load(WeightFormat::Q8_0, SHAPE, &bytes).is_none());
    let weight = |error| matches!(error, Some(Error::Weight { name, .. }) if name == "projection");
    assert!(weight(load(WeightFormat::Q4_0, SHAPE, &bytes)));
    assert!(weight(load(WeightFormat::Q8_0, SHAPE, &bytes[1..])));
    let beyond = PanelBytes { owner: Arc::new([0u8; 4]), range: 2..6, file: None };
    let view = WeightView::in_panels("projection", WeightFormat::Q8_0, SHAPE, beyond);
    assert!(weight(backend.load_linear(&spec(WeightFormat::Q8_0), view, None).err()));
    let error = load(WeightFormat::Q8_0, (SHAPE.0 + 1, SHAPE.1), &bytes);
    assert!(matches!(error, Some(Error::Shape { what, .. }) if what.contains("projection")));
}
