//! The bundled model says of itself what its card says.

use moebius::router::{ExpertLoad, Specialisation};
use moebius::{Model, OpenOptions, Score, ScoreOptions, perplexity};
use serde_json::Value;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/moebius-tiny");

fn measurements() -> Value {
    let text = std::fs::read_to_string(format!("{MODEL}/measurements.json")).expect("the model was measured");
    serde_json::from_str(&text).expect("measurements are JSON")
}

fn scores(model: &mut Model, domain: &str) -> Vec<Score> {
    let text = std::fs::read_to_string(format!("{MODEL}/eval/{domain}.txt")).expect("each domain has a text");
    let windows = model.windows(&text).expect("the text is long enough");
    model.score(&windows, &ScoreOptions { dump: None, routing: true }).expect("the model scores").0
}

/// The load of one layer over all windows of a file.
fn load(scores: &[Score], layer: usize) -> ExpertLoad {
    let mut loads = scores.iter().map(|score| &score.loads.as_ref().expect("it was asked for")[&layer]);
    let mut sum = loads.next().expect("there is a window").clone();
    loads.for_each(|load| sum.merge(load).expect("a layer has as many experts everywhere"));
    sum
}

#[test]
fn perplexities_and_mutual_information_are_those_of_the_model_card() {
    let measured = measurements();
    let mut model = Model::open(MODEL, &OpenOptions::default()).expect("the model opens");
    let domains: Vec<&str> =
        measured["routing"]["domains"].as_array().unwrap().iter().map(|d| d.as_str().unwrap()).collect();
    let files: Vec<Vec<Score>> = domains.iter().map(|domain| scores(&mut model, domain)).collect();
    for (domain, scores) in domains.iter().zip(&files) {
        let expected = measured["models"]["moe"]["eval"][domain]["perplexity"].as_f64().unwrap();
        let got = perplexity(scores).unwrap();
        assert!((got - expected).abs() < 0.005, "{domain}: expected {expected}, got {got}");
    }
    let layers = measured["routing"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), model.info().n_layers);
    for (index, layer) in layers.iter().enumerate() {
        let loads: Vec<ExpertLoad> = files.iter().map(|scores| load(scores, index)).collect();
        let got = Specialisation::of(&loads).unwrap().mutual_information_nats.unwrap();
        let expected = layer["mutual_information_nats"].as_f64().unwrap();
        assert!((got - expected).abs() < 5e-4, "layer {index}: expected {expected}, got {got}");
        assert_eq!(
            load(&files.concat(), index).stats().unused,
            Some(vec![]),
            "layer {index} has a dead expert"
        );
    }
}
