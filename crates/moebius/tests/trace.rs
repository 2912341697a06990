//! Traces: what is written is read back, what is broken is refused, and nothing but a trace is overwritten.

mod support;

use std::path::{Path, PathBuf};

use moebius::trace::{
    ImportShape, TokenRoutes, TraceHeader, TraceKind, TraceLayer, TraceMode, TraceReader, TraceRecord,
    TraceStats, TraceWriter, import_trace,
};
use moebius::{Error, GenerateOptions, LayerRoute, Model, OpenOptions, Prompt, RoutingRules, ScoreOptions};
use tempfile::TempDir;

/// Layers of 4 and 300 experts, so that ids take two bytes.
fn layers() -> Vec<TraceLayer> {
    vec![TraceLayer { layer: 1, experts: 4, k: 2 }, TraceLayer { layer: 5, experts: 300, k: 3 }]
}

fn token(position: u32) -> TokenRoutes {
    let route = |layer, n_experts, experts: &[u32], weights: &[f32]| LayerRoute {
        layer,
        n_experts,
        experts: experts.to_vec(),
        weights: weights.to_vec(),
    };
    // The second layer dropped an expert of every other token.
    let second = match position % 2 {
        0 => route(5, 300, &[0, 7, 299], &[0.5, -0.25, 1e-30]),
        _ => route(5, 300, &[255, 256], &[0.5, 0.5]),
    };
    let routes = vec![route(1, 4, &[0, 3], &[0.75, 0.25]), second];
    TokenRoutes { step: position / 2, sequence: 9, position, token: Some(70_000 + position), routes }
}

fn write(dir: &TempDir, header: &TraceHeader, tokens: u32) -> PathBuf {
    let path = dir.path().join("a.trace");
    let mut writer = TraceWriter::create(&path, header).unwrap();
    (0..tokens).for_each(|position| writer.token(&token(position)).unwrap());
    writer.flush().unwrap();
    path
}

fn tokens(path: &Path) -> Vec<TokenRoutes> {
    let token = |record| match record {
        Ok(TraceRecord::Token(token)) => token,
        other => panic!("expected a token, got {other:?}"),
    };
    TraceReader::open(path).unwrap().map(token).collect()
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn tokens_come_back_as_they_were_written() {
    let dir = dir();
    let header = TraceHeader { family: Some("olmoe".into()), ..TraceHeader::new(layers()) };
    let path = write(&dir, &header, 5);
    assert_eq!(TraceReader::open(&path).unwrap().header(), &header);
    assert_eq!(tokens(&path), (0..5).map(token).collect::<Vec<_>>());

    let bare = TraceHeader { token_ids: false, weights: false, ..header };
    let path = write(&dir, &bare, 3);
    let expected = (0..3).map(token).map(|mut token| {
        token.token = None;
        token.routes.iter_mut().for_each(|route| route.weights.clear());
        token
    });
    assert_eq!(tokens(&path), expected.collect::<Vec<_>>());
}

#[test]
fn a_trace_that_ends_anywhere_reads_up_to_its_last_whole_record() {
    let dir = dir();
    let path = write(&dir, &TraceHeader::new(layers()), 3);
    let bytes = std::fs::read(&path).unwrap();
    let record = 16 + 2 * 6 + 3 * 6;
    let header = bytes.len() - 3 * record;
    for len in 0..bytes.len() {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let reader = TraceReader::open(&path);
        if len < header {
            assert!(matches!(reader, Err(Error::Trace { .. })), "{len} bytes");
            continue;
        }
        let mut reader = reader.unwrap();
        let whole = reader.by_ref().map(Result::unwrap).count();
        assert_eq!((whole, reader.incomplete_bytes()), ((len - header) / record, (len - header) % record));
    }
}

#[test]
fn a_broken_byte_is_refused_or_read_as_another_trace_and_never_panics() {
    let dir = dir();
    let path = write(&dir, &TraceHeader::new(layers()), 2);
    let bytes = std::fs::read(&path).unwrap();
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut broken = bytes.clone();
            broken[at] = value;
            std::fs::write(&path, &broken).unwrap();
            let Ok(reader) = TraceReader::open(&path) else { continue };
            for record in reader.flatten() {
                let TraceRecord::Token(token) = record else { continue };
                for route in token.routes {
                    assert!(route.experts.iter().all(|&id| (id as usize) < route.n_experts));
                    assert!(route.weights.iter().all(|weight| weight.is_finite()));
                }
            }
        }
    }
}

#[test]
fn what_no_router_says_is_refused_with_its_place() {
    let dir = dir();
    let path = write(&dir, &TraceHeader::new(layers()), 2);
    let bytes = std::fs::read(&path).unwrap();
    let record = 16 + 2 * 6 + 3 * 6;
    let first = bytes.len() - 2 * record;
    let refused = |at: usize, value: &[u8], reason: &str| {
        let mut broken = bytes.clone();
        broken[at..at + value.len()].copy_from_slice(value);
        std::fs::write(&path, &broken).unwrap();
        let error = TraceReader::open(&path).unwrap().find_map(Result::err).expect("an error").to_string();
        assert!(error.contains(reason) && error.contains("record"), "{error}");
    };
    refused(first + 16, &[4, 0], "expected at most 2 ascending ids below 4");
    refused(first + 18, &[0, 0], "ascending");
    refused(first + 20, &f32::NAN.to_le_bytes(), "finite weights, got NaN");
    refused(first + 16, &[0xff, 0xff], "nothing after the last expert");
    // The second token's third slot is empty and its weight must be too.
    refused(bytes.len() - 4, &1.0_f32.to_le_bytes(), "nothing after the last expert");
}

#[test]
fn headers_that_promise_the_impossible_are_refused() {
    let dir = dir();
    let path = dir.path().join("a.trace");
    let layer = |experts, k| vec![TraceLayer { layer: 0, experts, k }];
    for layers in
        [vec![], layer(0, 1), layer(65_536, 1), layer(4, 5), layer(4, 0), [layer(4, 1), layer(4, 1)].concat()]
    {
        let created = TraceWriter::create(&path, &TraceHeader::new(layers.clone()));
        assert!(matches!(created, Err(Error::Trace { .. })), "{layers:?}");
    }
    assert!(!path.exists());
    let refused = |bytes: &[u8], reason: &str| {
        std::fs::write(&path, bytes).unwrap();
        let error = TraceReader::open(&path).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    };
    refused(b"{}", "no trace");
    refused(b"moetrace\x02\0\0\0\0\0\0\0", "expected version 1, got 2");
    refused(b"moetrace\x01\0\0\0\xff\xff\xff\xff", "header of at most");
    refused(b"moetrace\x01\0\0\0\x02\0\0\0[]", "header");
    // Records of a gigabyte in a file of nothing cost nothing.
    let layers: Vec<String> =
        (0..4096).map(|l| format!(r#"{{"layer":{l},"experts":65535,"k":1}}"#)).collect();
    let json = format!(
        r#"{{"kind":"counts","family":null,"model":null,"layers":[{}],"token_ids":false,"weights":false,"program":""}}"#,
        layers.join(",")
    );
    let bytes =
        [b"moetrace\x01\0\0\0", &(json.len() as u32).to_le_bytes()[..], json.as_bytes(), &[0; 100]].concat();
    std::fs::write(&path, bytes).unwrap();
    let mut reader = TraceReader::open(&path).unwrap();
    assert!(reader.next().is_none());
    assert_eq!(reader.incomplete_bytes(), 100);
}

#[test]
fn only_traces_and_empty_files_are_overwritten() {
    let dir = dir();
    let path = dir.path().join("precious.txt");
    let header = TraceHeader::new(layers());
    for content in ["words", "moe"] {
        std::fs::write(&path, content).unwrap();
        assert!(matches!(TraceWriter::create(&path, &header), Err(Error::TraceTarget(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
    std::fs::write(&path, "").unwrap();
    drop(TraceWriter::create(&path, &header).unwrap());
    assert_eq!(tokens(&write(&dir, &header, 4)).len(), 4);
    assert_eq!(tokens(&write(&dir, &header, 1)).len(), 1, "the shorter trace replaced the longer one whole");
}

fn tiny(rules: RoutingRules) -> Model {
    support::open(
        &moebius::bundled_model().unwrap(),
        &OpenOptions { routing: rules, ..OpenOptions::default() },
    )
    .unwrap()
}

#[test]
fn a_run_writes_the_routes_that_it_shows() {
    let dir = dir();
    let path = dir.path().join("run.trace");
    let mut model = tiny(RoutingRules { drop_below: 0.2, ..RoutingRules::default() });
    model.start_trace(&path, TraceMode::Tokens).unwrap();
    let options = GenerateOptions { max_tokens: Some(6), record_routes: true, ..GenerateOptions::default() };
    let prompt = [736, 500, 38];
    let mut shown = Vec::new();
    for piece in model.generate(Prompt::Ids(&prompt), &options).unwrap() {
        shown.push(piece.unwrap().routes);
    }
    let summary = model.finish_trace().unwrap().expect("a trace");
    let traced = tokens(&path);
    // The prompt, and each generated token but the last.
    assert_eq!((summary.tokens, traced.len()), (8, 8));
    assert_eq!(traced.iter().take(3).map(|token| token.token.unwrap()).collect::<Vec<_>>(), prompt);
    assert_eq!(traced.iter().map(|token| token.position).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    assert_eq!(traced.iter().map(|token| token.step).collect::<Vec<_>>(), [0, 0, 0, 1, 2, 3, 4, 5]);
    let routes: Vec<Vec<LayerRoute>> = traced[2..].iter().map(|token| token.routes.clone()).collect();
    assert_eq!(routes, shown);
    assert!(routes.iter().flatten().any(|route| route.experts.len() < 4), "nothing was dropped");
}

#[test]
fn counts_hold_the_same_loads_as_tokens_and_no_token() {
    let dir = dir();
    let mut model = tiny(RoutingRules::default());
    let sequences: Vec<Vec<u32>> =
        (0..12).map(|n| (0..200).map(|i| (n * 31 + i * 7) % 500).collect()).collect();
    let [whole, counted] =
        [("t.trace", TraceMode::Tokens), ("c.trace", TraceMode::Counts)].map(|(name, mode)| {
            let path = dir.path().join(name);
            model.start_trace(&path, mode).unwrap();
            model.score(&sequences, &ScoreOptions::default()).unwrap();
            assert_eq!(model.finish_trace().unwrap().expect("a trace").tokens, 2400);
            path
        });
    let loads = |path: &Path| TraceReader::open(path).unwrap().loads().unwrap();
    assert_eq!(loads(&whole), loads(&counted));
    let blocks: Vec<u32> = TraceReader::open(&counted)
        .unwrap()
        .map(|record| match record.unwrap() {
            TraceRecord::Counts(tokens, _) => tokens,
            TraceRecord::Token(_) => panic!("a token in a trace of counts"),
        })
        .collect();
    assert!(blocks[..blocks.len() - 1].iter().all(|&tokens| tokens >= 1024), "{blocks:?}");
    let stats = TraceStats::read(&counted).unwrap();
    assert_eq!((stats.header.kind, stats.tokens, stats.sequences), (TraceKind::Counts, 2400, None));
    assert!(stats.layers.iter().all(|layer| layer.coactivation.is_none() && layer.reuse.is_none()));
}

#[test]
fn figures_are_as_by_hand() {
    let dir = dir();
    let path = dir.path().join("a.trace");
    let layer = TraceLayer { layer: 0, experts: 4, k: 2 };
    let mut writer = TraceWriter::create(&path, &TraceHeader::new(vec![layer])).unwrap();
    let chosen: [(&[u32], &[f32]); 4] =
        [(&[0, 1], &[0.5, 0.5]), (&[0, 1], &[0.5, 0.5]), (&[2, 3], &[1.0, 0.0]), (&[1, 2], &[0.75, 0.25])];
    for (position, (experts, weights)) in (0..).zip(chosen) {
        let route =
            LayerRoute { layer: 0, n_experts: 4, experts: experts.to_vec(), weights: weights.to_vec() };
        // The last token begins a sequence of its own.
        let (sequence, position) = if position == 3 { (1, 0) } else { (0, position) };
        let token = TokenRoutes { step: 0, sequence, position, token: Some(0), routes: vec![route] };
        writer.token(&token).unwrap();
    }
    writer.flush().unwrap();
    let stats = TraceStats::read(&path).unwrap();
    assert_eq!((stats.tokens, stats.sequences, stats.steps), (4, Some(2), Some(1)));
    let layer = &stats.layers[0];
    assert_eq!(layer.load.counts(), [2, 3, 2, 1]);
    assert_eq!(layer.reuse, Some(0.5)); // all, then none
    assert_eq!(layer.largest_weight_share, Some((0.5 + 0.5 + 1.0 + 0.75) / 4.0));
    let pairs = layer.coactivation.as_ref().unwrap();
    assert_eq!(pairs.lift(0, 1), Some(2.0 * 4.0 / (2.0 * 3.0)));
    // 1 token times ln 2 says more than 2 times ln 4/3.
    let strongest = pairs.strongest(9);
    assert_eq!(strongest.iter().map(|pair| (pair.first, pair.second)).collect::<Vec<_>>(), [(2, 3), (0, 1)]);
    assert_eq!((pairs.tokens(0, 3), pairs.lift(2, 3)), (0, Some(2.0)));
}

#[test]
fn imports_refuse_what_does_not_fit() {
    let dir = dir();
    let input = dir.path().join("in.json");
    let refused = |content: &str, shape: &ImportShape, reason: &str| {
        std::fs::write(&input, content).unwrap();
        let error = import_trace(&input, &dir.path().join("out.trace"), shape).unwrap_err().to_string();
        assert!(error.contains(reason), "{content}: {error}");
        assert!(!dir.path().join("out.trace").exists());
    };
    let of = |n_experts| ImportShape { n_experts: Some(n_experts), ..ImportShape::default() };
    refused("[[[0, 1]], [[4, 1]]]", &of(4), "expected ids below 4, got 4");
    refused("[[[0, 1]], [[2, 2]]]", &of(4), "each expert once");
    refused("[[[0, 1]], [[2]]]", &of(4), "expected 2 ids");
    refused("[[[0, 1]], []]", &of(4), "expected 1 layers");
    refused("[[[0, 0]], [[0, 0]]]", &of(4), "no layer of it has a router");
    refused("[[[0, 1.5]]]", &of(4), "expected ids");
    refused("{\"text\": \"hi\"}", &of(4), "no routed experts");
    refused("{\"meta_info\": {\"routed_experts\": \"!!!\"}}", &of(4), "base64");
    let shaped = ImportShape { layers: Some(2), k: Some(2), ..of(4) };
    refused("{\"meta_info\": {\"routed_experts\": \"AAAAAA==\"}}", &shaped, "expected whole tokens");
    refused("{\"meta_info\": {\"routed_experts\": \"AAAAAA==\"}}", &of(4), "not known");
    refused("not json", &of(4), "neither JSON nor");
}
