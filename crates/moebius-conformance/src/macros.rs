//! The table of checks, and the tests that it expands to.
//!
//! Invariants: a check is named once, in `__checks!`; tests and [`crate::accept()`] both read that table.

/// Tests one kind of backend: one `#[test]` per check, in a module of the given name.
///
/// The closure opens what is tested: a `Result<B>` for one instance, or a `Vec<Result<B>>` for several that
/// must be interchangeable (the same kernels on one and on three threads). Every instance passes every check,
/// and all of them agree bit for bit.
///
/// A backend that promises less names its groups, in lower case; `bitwise` is the one that plain tensor
/// libraries cannot keep:
///
/// ```
/// use moebius_conformance::ReferenceBackend;
///
/// moebius_conformance::accept!(
///     reference,
///     ReferenceBackend::new,
///     groups: [loading, linear, experts, ops],
/// );
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! accept {
    ($name:ident, $open:expr $(,)?) => {
        $crate::__accept_module! { $name, $open, [loading linear experts ops bitwise] {
            #[test]
            fn instances_agree_bit_for_bit() {
                $crate::expansion::verify_same_bits(&open(), &open());
            }
        } }
    };
    ($name:ident, $open:expr, groups: [$($group:ident),+ $(,)?] $(,)?) => {
        $crate::__accept_module! { $name, $open, [$($group)+] {} }
    };
}

/// The module of one kind of backend.
#[doc(hidden)]
#[macro_export]
macro_rules! __accept_module {
    ($name:ident, $open:expr, [$($group:ident)+] { $($more:item)* }) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn open() -> Vec<Box<dyn $crate::expansion::Backend>> {
                $crate::expansion::open($open())
            }

            $($crate::__checks! { $group, __tests })+
            $($more)*
        }
    };
}

/// One test per check of a group.
#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ($group:ident $module:ident [$($check:ident)+]) => {
        mod $module {
            $(#[test]
            fn $check() {
                $crate::expansion::verify(&super::open(), $crate::expansion::$module::$check);
            })+
        }
    };
}

/// Every check, by group; handed to the macro `$then`.
#[doc(hidden)]
#[macro_export]
macro_rules! __checks {
    (loading, $then:ident) => {
        $crate::$then! { Loading loading [
            some_format_is_supported_for_each_kind_of_weight
            what_is_supported_loads_and_what_is_not_does_not
            impossible_sizes_are_refused_before_loading
            rows_that_are_no_multiple_of_a_block_are_refused_before_loading
            the_pages_of_a_projection_are_released_once
            each_heads_matrix_is_asked_for_and_released_once
            each_expert_matrix_is_asked_for_and_released_once
            views_are_released_when_loading_fails
            weights_that_are_not_finite_are_errors_that_name_the_tensor
            bytes_that_do_not_fit_are_errors_that_name_the_tensor
            views_that_contradict_the_spec_are_errors
            a_bias_of_the_wrong_length_is_an_error
            biases_of_experts_that_do_not_fit_are_errors
            errors_of_the_source_come_back
            views_in_another_format_are_rounded_to_the_specs
        ] }
    };
    (linear, $then:ident) => {
        $crate::$then! { Linear linear [
            awkward_sizes_agree_with_f64
            strided_inputs_agree_with_f64
            rows_are_the_exact_weights
            unknown_row_ids_are_errors
            inputs_of_the_wrong_shape_or_type_are_errors
            each_head_has_a_matrix_of_its_own
            strided_inputs_of_heads_agree_with_f64
            inputs_for_other_heads_are_errors
        ] }
    };
    (experts, $then:ident) => {
        $crate::$then! { Experts experts [
            awkward_sizes_agree_with_f64
            weights_on_inputs_agree_with_f64
            experts_without_a_gate_agree_with_f64
            biases_are_added_before_activation_and_weight
            every_activation_agrees_with_f64
            down_may_have_a_format_of_its_own
            strided_inputs_agree_with_f64
            all_tokens_may_visit_one_expert
            tokens_may_visit_every_expert
            most_experts_may_be_empty
            the_meter_counts_exactly_what_was_routed
            a_call_without_tokens_counts_nothing
            routing_of_the_wrong_size_is_an_error_and_counts_nothing
            inputs_of_the_wrong_width_are_errors_and_count_nothing
        ] }
    };
    (ops, $then:ident) => {
        $crate::$then! { Ops ops [
            rms_norm_agrees_with_f64
            rms_norm_of_a_zero_row_is_zero
            layer_norm_agrees_with_f64
            additions_agree_with_f64
            rows_are_written_where_they_belong
            rope_agrees_with_f64
            activate_agrees_with_f64
            glu_agrees_with_f64
            attention_agrees_with_f64
            attention_sees_no_more_than_its_window
            attention_sees_no_earlier_chunk
            sinks_take_their_share_of_attention
            values_may_be_columns_of_the_keys
            attention_keeps_sequences_apart
            softplus_agrees_with_f64
            causal_conv_agrees_with_f64
            delta_rule_agrees_with_f64
            selective_scan_agrees_with_f64
            recurrences_that_do_not_fit_are_errors
            strided_inputs_change_nothing
            no_rows_give_no_rows
            shapes_that_do_not_fit_are_errors
            spans_that_do_not_fit_are_errors
        ] }
    };
    (bitwise, $then:ident) => {
        $crate::$then! { Bitwise bitwise [
            linear_rows_do_not_depend_on_their_batch
            head_rows_do_not_depend_on_their_batch
            projections_together_have_the_bits_of_each_alone
            expert_rows_do_not_depend_on_their_batch
            small_operations_do_not_depend_on_their_batch
            attention_does_not_depend_on_how_a_prompt_was_cut
            attention_does_not_depend_on_other_sequences
            recurrences_do_not_depend_on_how_a_sequence_was_cut
            experts_that_a_bank_chooses_are_those_of_the_router
            the_same_call_gives_the_same_bits
        ] }
    };
}

/// The checks of a group as a list: for this crate itself.
#[doc(hidden)]
#[macro_export]
macro_rules! __listed {
    ($group:ident $module:ident [$($check:ident)+]) => {
        vec![$(($crate::Group::$group, stringify!($check), $module::$check as $crate::run::Check)),+]
    };
}
