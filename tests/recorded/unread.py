"""Fields of the records that neither page nor tables read, by kind of run; and keys of the provenance.

A field leaves the list when a view reads it.
"""

from __future__ import annotations

UNREAD = {
    "ablate": """
        Certificate.method Certificate.missed Mean.high Mean.low Mean.n_clusters Results.schema
    """,
    "ask": """
        ClassCalibrationRecord.ece ClassCalibrationRecord.ece_chance ClassCalibrationRecord.label
        ClassCalibrationRecord.probability ClassCalibrationRecord.share
        ClassCalibrationRecord.support ErrorRecord.method JudgedRecord.aurc_high
        JudgedRecord.aurc_low JudgedRecord.classwise_chance JudgedRecord.commonest
        JudgedRecord.commonest_share JudgedRecord.ece_mass_high JudgedRecord.ece_mass_low
        JudgedRecord.n_clusters JudgedRecord.n_values JudgedRecord.squared_error_all_high
        JudgedRecord.squared_error_all_low JudgedRecord.squared_error_high
        JudgedRecord.squared_error_low PromptRecord.clean PromptRecord.n_words Results.kind
        Results.schema WordsRecord.n_clusters
    """,
    "attend": """
        CheckpointRecord.entropy_high CheckpointRecord.entropy_low CheckpointRecord.name
        Disagreement.baseline HeadEffect.effect_exact HeadRecord.component HeadRecord.direction
        HeadRecord.end_high HeadRecord.end_low HeadRecord.next_high HeadRecord.next_low
        HeadRecord.norm_end HeadRecord.norm_end_high HeadRecord.norm_end_low
        HeadRecord.norm_first_high HeadRecord.norm_first_low HeadRecord.norm_punctuation
        HeadRecord.norm_punctuation_high HeadRecord.norm_punctuation_low HeadRecord.offset
        HeadRecord.output_high HeadRecord.output_low HeadRecord.positional HeadRecord.previous_high
        HeadRecord.previous_low HeadRecord.punctuation_high HeadRecord.punctuation_low
        HeadRecord.relation_baseline HeadRecord.self_high HeadRecord.self_low HeadRecord.sink_high
        HeadRecord.sink_low LayerRecord.confidence LayerRecord.distance LayerRecord.end
        LayerRecord.next LayerRecord.norm_end LayerRecord.norm_punctuation LayerRecord.output
        LayerRecord.punctuation LayerRecord.self LayerRecord.sink Results.kind Results.schema
    """,
    "attribute": """
        Flip.other MethodRecord.notes RandomRecord.draws RandomRecord.item RandomRecord.target
        RandomRecord.text RandomRecord.unit Results.kind Results.schema
    """,
    "calibrate": """
        ErrorRecord.method GroupDifferenceRecord.p JudgedRecord.aurc_high JudgedRecord.aurc_low
        JudgedRecord.commonest
        JudgedRecord.commonest_share JudgedRecord.ece_mass_high JudgedRecord.ece_mass_low
        JudgedRecord.n_clusters JudgedRecord.n_values JudgedRecord.squared_error_all_high
        JudgedRecord.squared_error_all_low JudgedRecord.squared_error_high
        JudgedRecord.squared_error_low Results.kind Results.schema
    """,
    "capture": """
        Note.kind Note.text Results.kind Results.schema
    """,
    "doctor": """
        Finding.property Note.kind Note.text Results.kind Results.schema Results.status
    """,
    "geometry": """
        LensText.log2p Results.kind Results.schema
    """,
    "lens": """
        Note.kind Note.text Results.kind Results.schema TextRecord.bias
    """,
    "neurons": """
        Baseline.high Baseline.low Baseline.n_clusters Baseline.value ReadRecord.layer
        Results.baseline Results.kind Results.schema SiteRecord.layer SiteRecord.n_test
        SiteRecord.n_train SiteRecord.unconverged WordRecord.split WordRecord.value
    """,
    "patch": """
        Certificate.method Certificate.missed Mean.n_clusters Results.schema
    """,
    "probe": """
        CalibrationRecord.accuracy_high CalibrationRecord.accuracy_low CalibrationRecord.aurc
        CalibrationRecord.aurc_best CalibrationRecord.aurc_high CalibrationRecord.aurc_low
        CalibrationRecord.auroc CalibrationRecord.auroc_high CalibrationRecord.auroc_low
        CalibrationRecord.brier CalibrationRecord.brier_high CalibrationRecord.brier_low
        CalibrationRecord.classwise CalibrationRecord.classwise_chance CalibrationRecord.commonest
        CalibrationRecord.commonest_share CalibrationRecord.confidence_high
        CalibrationRecord.confidence_low CalibrationRecord.coverage CalibrationRecord.ece
        CalibrationRecord.ece_chance CalibrationRecord.ece_high CalibrationRecord.ece_low
        CalibrationRecord.ece_mass CalibrationRecord.ece_mass_chance CalibrationRecord.ece_mass_high
        CalibrationRecord.ece_mass_low CalibrationRecord.ece_p CalibrationRecord.layer
        CalibrationRecord.maximum_error CalibrationRecord.measured CalibrationRecord.n
        CalibrationRecord.n_answered CalibrationRecord.n_clusters CalibrationRecord.n_impossible
        CalibrationRecord.n_refused CalibrationRecord.n_unparsable CalibrationRecord.n_values
        CalibrationRecord.nll CalibrationRecord.nll_high CalibrationRecord.nll_low
        CalibrationRecord.overconfidence CalibrationRecord.overconfidence_high
        CalibrationRecord.overconfidence_low CalibrationRecord.reliability
        CalibrationRecord.resolution CalibrationRecord.squared_error
        CalibrationRecord.squared_error_all CalibrationRecord.squared_error_all_high
        CalibrationRecord.squared_error_all_low CalibrationRecord.squared_error_high
        CalibrationRecord.squared_error_low CalibrationRecord.uncertainty CalibrationRecord.within
        ClassScores.layer CoverageRecord.best CoverageRecord.risk CoverageRecord.share
        ErrorRecord.layer ErrorRecord.site Results.kind Results.schema
    """,
    "prune": """
        Mean.high Mean.low Mean.n_clusters Mean.value Results.baseline Results.kind Results.schema
        StepRecord.n_clusters StepRecord.original_seconds StepRecord.removed StepRecord.seconds
    """,
    "swap": """
        Note.kind Note.text Results.kind Results.schema
    """,
    "usage": """
        Certificate.method Certificate.misleads Certificate.missed Certificate.n_sample
        Certificate.n_top Certificate.overlap Certificate.same_sign Certificate.slope
        Certificate.spearman Certificate.spearman_sample Mean.high Mean.low Mean.n_clusters
        Mean.value Results.baseline Results.kind Results.schema
    """,
    "provenance": """
        doctor.checks doctor.findings doctor.seconds doctor.status doctor.wrong memory.batch_tokens
        model.attention model.bos_id model.causal model.device model.max_length model.notes
        model.random_seed model.tokenizer model.tokenizer_sha256
    """,
}
