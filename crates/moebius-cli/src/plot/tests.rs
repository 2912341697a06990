//! Pictures as text: what is in them, and what must not be.

use super::*;

fn chart(x: Scale, y: Scale, points: &[(f64, f64)]) -> Chart {
    let points: Vec<Point> = points.iter().map(|&(x, y)| Point::new(x, y)).collect();
    let series = |name: &str, color, mark| Series { name: name.into(), color, mark, points: points.clone() };
    Chart {
        title: "time < budget".into(),
        x: Axis::new("tokens", x),
        y: Axis::new("milliseconds", y),
        series: vec![series("k 4", 0, Mark::Measured), series("ideal & more", 0, Mark::Theory)],
    }
}

fn figure(charts: Vec<Chart>) -> Figure {
    Figure { title: "a layer".into(), subtitle: "two threads".into(), charts, columns: 2 }
}

#[test]
fn a_figure_is_one_well_formed_picture_with_its_words_escaped() {
    let points = [(1.0, 2.0), (8.0, 3.5), (64.0, 20.0)];
    let svg = figure(vec![chart(Scale::Log2, Scale::Log10, &points); 3]).svg(&[]).unwrap();
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for part in ["a layer", "two threads", "time &lt; budget", "ideal &amp; more", "milliseconds"] {
        assert!(svg.contains(part), "`{part}` is not in:\n{svg}");
    }
    assert_eq!(svg.matches("<circle").count(), 3 * (3 + 1), "points and an entry of the legend each");
    assert_eq!(svg, figure(vec![chart(Scale::Log2, Scale::Log10, &points); 3]).svg(&[]).unwrap());
}

#[test]
fn what_an_axis_cannot_show_is_left_out_and_nothing_says_so() {
    let odd = [(0.0, 1.0), (1.0, f64::NAN), (2.0, f64::INFINITY), (-3.0, 4.0)];
    let svg = figure(vec![chart(Scale::Log2, Scale::Log10, &odd)]).svg(&[]).unwrap();
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    let svg = figure(vec![chart(Scale::Linear, Scale::Linear, &[])]).svg(&[]).unwrap();
    assert!(svg.contains("nothing to show"), "{svg}");
    assert!(figure(Vec::new()).svg(&[]).unwrap().contains("a layer"));
}

#[test]
fn one_point_is_enough_and_stands_within_the_picture() {
    for scale in [Scale::Linear, Scale::Log2, Scale::Log10] {
        let svg = figure(vec![chart(scale, scale, &[(4.0, 4.0)])]).svg(&[]).unwrap();
        assert!(svg.contains("<circle"), "{scale:?}");
    }
}

#[test]
fn ticks_are_round_and_named_as_people_write_them() {
    let labels = |scale: Scale, low: f64, high: f64| -> Vec<String> {
        let range = scale.range([low, high].into_iter()).unwrap();
        scale.ticks(range).into_iter().map(|at| scale.label(at)).collect()
    };
    assert_eq!(labels(Scale::Linear, 0.0, 9.0), ["0", "2", "4", "6", "8"]);
    assert_eq!(labels(Scale::Log2, 1.0, 8.0), ["1", "2", "4", "8"]);
    assert_eq!(labels(Scale::Log10, 0.1, 10.0), ["0.1", "0.2", "0.5", "1", "2", "5", "10"]);
    assert_eq!(labels(Scale::Log10, 1.0, 1e6), ["1", "10", "100", "1000", "10000", "1e5", "1e6"]);
    assert_eq!(labels(Scale::Linear, -1.0, 1.0), ["-1", "-0.5", "0", "0.5", "1"]);
}

#[test]
fn words_beside_points_never_stand_on_each_other() {
    let mut taken: Vec<draw::Label> = Vec::new();
    // A crowd of points a few pixels apart, more than there is room for.
    for step in 0..40 {
        taken.extend(draw::Label::beside((100 + 3 * step, 50 + step % 3), "k4", &taken));
    }
    assert!((8..40).contains(&taken.len()), "{}", taken.len());
    for (index, label) in taken.iter().enumerate() {
        assert!(!taken[..index].iter().any(|other| label.overlaps(other)), "{label:?}");
    }
}
