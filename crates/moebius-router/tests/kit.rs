//! The router conformance kit, `models/router-kit`: its golden vectors come from another implementation.

#[path = "kit/cases.rs"]
mod kit_cases;

use moebius_router::{FORMULAS, GroupRank, Renormalize, Router, RouterConfig, Score, Selection};
use serde_json::Value;

use kit_cases::{all_cases, cases, config_of, files, floats, size};

/// Weights may differ by this share, and by this much where float32 holds no more.
const RELATIVE: f64 = 1e-6;
const ABSOLUTE: f64 = 1e-12;

/// Routes the rows of `case` by `config` and says the first difference.
fn compare(config: &RouterConfig, case: &Value) -> Result<usize, String> {
    let router = Router::new(0, config.clone()).map_err(|error| error.to_string())?;
    let rows = case["logits"].as_array().unwrap();
    for (row, logits) in rows.iter().enumerate() {
        let routing = router.route(&floats(logits)).map_err(|error| error.to_string())?;
        let expected: Vec<u32> =
            case["experts"][row].as_array().unwrap().iter().map(|id| size(id) as u32).collect();
        if routing.experts(0) != expected {
            return Err(format!("row {row}: expected {expected:?}, got {:?}", routing.experts(0)));
        }
        for (&weight, expected) in routing.weights(0).iter().zip(case["weights"][row].as_array().unwrap()) {
            let (weight, expected) = (f64::from(weight), expected.as_f64().unwrap());
            if (weight - expected).abs() > RELATIVE * expected.abs() + ABSOLUTE {
                return Err(format!("row {row}: expected weight {expected}, got {weight}"));
            }
        }
    }
    Ok(rows.len())
}

#[test]
fn the_whole_kit_is_routed_as_expected() {
    let mut rows = 0;
    for (name, file) in files() {
        for case in cases(&file) {
            let case_rows = compare(&config_of(&case["config"]), case);
            rows += case_rows.unwrap_or_else(|difference| panic!("{name}, {}: {difference}", case["name"]));
        }
    }
    assert!(rows > 500, "only {rows} rows");
}

#[test]
fn there_is_a_file_for_each_published_formula_and_its_cases_are_of_it() {
    let files = files();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, FORMULAS.iter().map(|formula| formula.kit_file).collect::<Vec<_>>());
    for (formula, (_, file)) in FORMULAS.iter().zip(&files) {
        assert_eq!((file["id"].as_str(), file["name"].as_str()), (Some(formula.id), Some(formula.name)));
        assert!(cases(file).iter().any(|case| config_of(&case["config"]).published() == *formula));
    }
}

#[test]
fn a_changed_expectation_is_noticed() {
    for case in all_cases() {
        let config = config_of(&case["config"]);
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut case = case.clone();
            change(&mut case);
            compare(&config, &case).is_err()
        };
        let other = (0..config.n_experts as u64)
            .find(|id| !case["experts"][0].as_array().unwrap().contains(&(*id).into()));
        if let Some(other) = other {
            assert!(changed(&|case| case["experts"][0][0] = other.into()), "{}", case["name"]);
        }
        let weight = case["weights"][0][0].as_f64().unwrap();
        assert!(changed(&|case| case["weights"][0][0] = (weight * 1.000_01).into()), "{}", case["name"]);
    }
}

/// One setting of a router got wrong, as engines do; `None` where the router has no such setting.
type Mistake = (&'static str, fn(&RouterConfig) -> Option<RouterConfig>);

const MISTAKES: [Mistake; 8] = [
    ("renormalised or not", |config| {
        // A softmax over the chosen sums to 1 as it is.
        if config.score == Score::SoftmaxOverTopK {
            return None;
        }
        let renormalize = match config.renormalize {
            Renormalize::No => Renormalize::Sum { eps: 0.0 },
            _ => Renormalize::No,
        };
        Some(config.clone().with_renormalize(renormalize))
    }),
    ("the bias is lost", |config| {
        config.selection_bias.as_ref()?;
        Some(RouterConfig { selection_bias: None, ..config.clone() })
    }),
    ("the factor is lost", |config| (config.scale != 1.0).then(|| config.clone().with_scale(1.0))),
    ("the scales of experts are lost", |config| {
        config.expert_scale.as_ref()?;
        Some(RouterConfig { expert_scale: None, ..config.clone() })
    }),
    ("groups are ignored", |config| {
        (config.selection != Selection::TopK)
            .then(|| RouterConfig { selection: Selection::TopK, ..config.clone() })
    }),
    ("groups are compared by the other score", |config| match config.selection {
        Selection::GroupLimited { n_groups, keep, rank } => {
            let rank = if rank == GroupRank::Max { GroupRank::TopTwoSum } else { GroupRank::Max };
            let selection = Selection::GroupLimited { n_groups, keep, rank };
            Some(RouterConfig { selection, ..config.clone() })
        }
        _ => None,
    }),
    ("another score", |config| {
        let score = if config.score == Score::Softmax { Score::Sigmoid } else { Score::Softmax };
        Some(RouterConfig { score, ..config.clone() })
    }),
    ("another jitter", |config| match config.score {
        Score::SparseMixer { jitter_eps } => {
            let score = Score::SparseMixer { jitter_eps: 1.5 * jitter_eps };
            Some(RouterConfig { score, ..config.clone() })
        }
        _ => None,
    }),
];

#[test]
fn every_setting_that_an_engine_may_get_wrong_shows_in_every_formula_that_has_it() {
    for (name, file) in files() {
        for (mistake, make) in MISTAKES {
            let mut wrong = cases(&file)
                .iter()
                .filter_map(|case| Some((make(&config_of(&case["config"]))?, case)))
                .peekable();
            let has_setting = wrong.peek().is_some();
            let noticed = wrong.any(|(config, case)| compare(&config, case).is_err());
            assert!(noticed || !has_setting, "{name}: {mistake}");
        }
    }
}

#[test]
fn what_is_added_to_the_sum_matters_in_some_case() {
    let without = |config: &RouterConfig| config.clone().with_renormalize(Renormalize::Sum { eps: 0.0 });
    for renormalize in [Renormalize::Sum { eps: 1e-6 }, Renormalize::SumAtLeast { min: 0.25 }] {
        let cases = all_cases();
        let mut with = cases.iter().filter(|case| config_of(&case["config"]).renormalize == renormalize);
        assert!(
            with.any(|case| compare(&without(&config_of(&case["config"])), case).is_err()),
            "{renormalize:?}"
        );
    }
}
