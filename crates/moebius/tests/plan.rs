//! The planner: sizes that published models have, speeds that others measured.

use moebius::plan::{CacheFormat, Class, Demand, Estimator, Fit, Load, Machine, validate_published};

fn demand(name: &str, weights: &str) -> Demand {
    Demand::find(name, None, Some(weights.parse().unwrap())).unwrap()
}

#[test]
fn parameters_are_within_a_thousandth_of_what_is_published() {
    let check = |name: &str, total: f64, active: f64| {
        let info = demand(name, "bf16").info;
        let near = |got: u64, expected: f64| (got as f64 / 1e9 - expected).abs() <= 1e-3 * expected + 0.005;
        assert!(near(info.total_parameters(), total), "{name}: {}", info.total_parameters());
        let counts = [info.active_parameters(), info.active_without_embedding()];
        assert!(counts.iter().any(|&count| near(count, active)), "{name}: {counts:?}");
    };
    check("mixtral-8x7b", 46.70, 12.88);
    check("olmoe-1b-7b", 6.92, 1.28);
    check("qwen3-30b-a3b", 30.53, 3.35);
    check("gpt-oss-20b", 20.91, 3.61);
    check("gpt-oss-120b", 116.83, 5.13);
    let v3 = demand("deepseek-v3", "bf16").info;
    assert_eq!((v3.total_parameters() as f64 / 1e9).round(), 671.0);
    assert!((36.5..38.0).contains(&(v3.active_parameters() as f64 / 1e9)));
}

#[test]
fn cache_bytes_are_exact() {
    let check = |name: &str, token: u64| {
        let demand = demand(name, "bf16");
        assert_eq!(demand.cache_bytes_per_token(CacheFormat::F16), token, "{name}");
        assert_eq!(demand.cache_bytes_per_token(CacheFormat::F32), 2 * token, "{name}");
    };
    check("mixtral-8x7b", 131_072);
    check("olmoe-1b-7b", 131_072);
    check("qwen3-30b-a3b", 98_304);
    check("gpt-oss-20b", 24_576);
    check("gpt-oss-120b", 36_864);
    // (512 + 64) numbers of latent and rotary key, 61 layers.
    check("deepseek-v3", 70_272);
}

#[test]
fn windows_bound_the_cache_and_this_program_keeps_every_position() {
    let demand = demand("gpt-oss-20b", "bf16");
    // Twelve layers keep all, twelve the last 128; a row is 2048 bytes in 16 bits.
    assert_eq!(demand.cache_bytes(100, CacheFormat::F16), 24 * 100 * 2048);
    assert_eq!(demand.cache_bytes(8192, CacheFormat::F16), 12 * (8192 + 128) * 2048);
    assert_eq!(demand.cache_bytes(8192, CacheFormat::Own), 24 * 8192 * 4096);
    assert_eq!(demand.cache_bytes(8193, CacheFormat::Own), 24 * 16384 * 4096);
    assert_eq!(demand.cache_bytes(8192, CacheFormat::Own), 8192 * demand.info.cache_bytes_per_token);
}

#[test]
fn states_of_recurrences_do_not_grow() {
    let demand = demand("qwen3-next-80b-a3b", "bf16");
    let states = demand.info.cache_bytes_per_sequence;
    assert!(states > 0);
    assert_eq!(demand.cache_bytes(0, CacheFormat::F16), states);
    let grown = demand.cache_bytes(1000, CacheFormat::F16) - states;
    assert_eq!(grown, 1000 * demand.cache_bytes_per_token(CacheFormat::F16));
}

#[test]
fn weights_are_counted_as_show_counts_them_and_steps_read_what_the_union_says() {
    let demand = demand("olmoe-1b-7b", "bf16");
    assert_eq!(Some(demand.weight_bytes()), demand.info.weight_bytes());
    let rows = demand.info.n_layers as f64 * 3.0 * 2048.0 * 1024.0 * 2.0;
    assert!((demand.touched_expert_bytes(1.0) - 8.0 * rows).abs() < 1.0);
    assert!((demand.touched_expert_bytes(8.0) / rows - 42.0).abs() < 0.1);
    assert!((demand.touched_expert_bytes(1e9) - demand.expert_bytes() as f64).abs() < 1.0);
    // The table of tokens is looked up and not read, since the output projection is another matrix.
    let table = 50_304 * 2048 * 2;
    assert_eq!(demand.common_bytes(), demand.weight_bytes() - demand.expert_bytes() - table);
}

#[test]
fn llama_cpps_file_of_gpt_oss_has_the_size_that_it_has() {
    let gib = demand("gpt-oss-20b", "mxfp4_moe").weight_bytes() as f64 / f64::from(1 << 30);
    assert!((gib - 11.27).abs() < 0.02 * 11.27, "{gib}");
    let gib = demand("gpt-oss-120b", "mxfp4_moe").weight_bytes() as f64 / f64::from(1 << 30);
    assert!((gib - 59.02).abs() < 0.02 * 59.02, "{gib}");
}

#[test]
fn published_speeds_are_reproduced_as_far_as_is_promised() {
    let sets = validate_published().unwrap();
    for set in &sets {
        assert!(set.passes(), "{}: {:?} of {}", set.name, set.within(), set.needed);
        for row in &set.rows {
            assert!(row.predicted.is_finite() && row.predicted > 0.0 && !row.source.is_empty(), "{row:?}");
        }
    }
    let set = |name: &str| sets.iter().find(|set| set.name == name).unwrap();
    assert_eq!((set("gpt_oss_devices").rows.len(), set("gpt_oss_devices").needed), (15, 13));
    assert_eq!((set("batch_union").rows.len(), set("batch_union").needed), (4, 4));
    let cost = set("services").rows.iter().find(|row| row.unit == "$").unwrap();
    assert!((cost.predicted - 87_072.0).abs() < 1e-6);
}

#[test]
fn a_service_of_many_devices_uses_a_share_of_their_arithmetic_that_is_possible() {
    let estimator = Estimator::new().unwrap();
    let load = Load::new(88 * 144, 4989, CacheFormat::F16);
    let machine = Machine::find("144xh800").unwrap();
    let estimate = estimator.estimate(&demand("deepseek-v3", "fp8"), &machine, &load);
    let used = estimate.compute_utilisation.unwrap();
    assert!((0.1..0.2).contains(&used), "{used}");
    assert!(estimate.decode.unwrap().expected < estimate.decode_roof.unwrap());
}

#[test]
fn what_does_not_fit_says_how_it_would() {
    let estimator = Estimator::new().unwrap();
    let fit = |machine: &str| {
        let load = Load::new(1, 4096, CacheFormat::F16);
        let demand = demand("gpt-oss-120b", "mxfp4_moe");
        estimator.estimate(&demand, &Machine::find(machine).unwrap(), &load)
    };
    assert!(matches!(fit("h100").fit, Fit::Whole { .. }));
    let alone = fit("rtx-5090");
    let Fit::TooLarge { devices: Some(devices) } = alone.fit else { panic!("{:?}", alone.fit) };
    assert!(alone.decode.is_none() && alone.prefill.is_none());
    assert!(matches!(fit(&format!("{devices}xrtx-5090")).fit, Fit::Whole { .. }));
    assert!(matches!(fit(&format!("{}xrtx-5090", devices - 1)).fit, Fit::TooLarge { .. }));
    let offloaded = fit("rtx-5090+ddr5-5600");
    assert!(matches!(offloaded.fit, Fit::Offloaded { layers: 1..36, of: 36 }), "{:?}", offloaded.fit);
    assert!(offloaded.decode.unwrap().expected < fit("h100").decode.unwrap().expected);
    assert_eq!(fit("ddr5-5600").fit, Fit::Unknown);
}

#[test]
fn two_dies_are_faster_than_one_and_no_faster_than_two() {
    let estimator = Estimator::new().unwrap();
    let speed = |machine: &str, batch| {
        let load = Load::new(batch, 2048, CacheFormat::F16);
        let demand = demand("pangu-pro-moe", "int8");
        estimator.estimate(&demand, &Machine::find(machine).unwrap(), &load).decode.map(|band| band.expected)
    };
    assert_eq!(speed("ascend-910c", 64), speed("2xascend-910c-die", 64));
    assert!(speed("ascend-910c-die", 8).is_none(), "72 GB do not fit 64 GiB");
}

#[test]
fn unknown_figures_leave_estimates_unknown() {
    let estimator = Estimator::new().unwrap();
    let demand = demand("olmoe-1b-7b", "bf16");
    let estimate = |batch| {
        let load = Load::new(batch, 512, CacheFormat::F16);
        estimator.estimate(&demand, &Machine::find("m2-ultra").unwrap(), &load)
    };
    // No peak is known: a token alone is bound by reading, batches and prompts are not.
    assert!(estimate(1).decode.is_some() && estimate(1).prefill.is_none());
    assert!(estimate(8).decode.is_none());
    assert!(estimator.speed(Class::Metal).is_some_and(|speed| speed.compute_share.is_some()));
}
