"""Fields of the records that neither page nor tables read, by kind of run; and keys of the
provenance.

A field leaves the list when a view reads it.
"""

from __future__ import annotations

UNREAD = {
    "ablate": """
        Certificate.method Certificate.missed Mean.interval Mean.n_clusters Results.schema
    """,
    "ask": """
        ClassCalibrationRecord.ece ClassCalibrationRecord.ece_chance ClassCalibrationRecord.label
        ClassCalibrationRecord.probability ClassCalibrationRecord.share
        ClassCalibrationRecord.support ErrorRecord.method JudgedRecord.aurc_interval
        JudgedRecord.classwise_chance JudgedRecord.commonest JudgedRecord.commonest_share
        JudgedRecord.ece_mass_interval JudgedRecord.ece_p JudgedRecord.n_clusters JudgedRecord.n_values
        JudgedRecord.squared_error_all_interval JudgedRecord.squared_error_interval
        PromptRecord.clean PromptRecord.n_words Results.kind Results.schema WordsRecord.n_clusters
    """,
    "attend": """
        CheckpointRecord.entropy_interval CheckpointRecord.name Disagreement.baseline
        HeadEffect.exact HeadRecord.component HeadRecord.direction HeadRecord.end_interval
        HeadRecord.next_interval HeadRecord.norm_end HeadRecord.norm_end_interval
        HeadRecord.norm_first_interval HeadRecord.norm_punctuation
        HeadRecord.norm_punctuation_interval HeadRecord.offset HeadRecord.output_interval
        HeadRecord.positional HeadRecord.previous_interval HeadRecord.punctuation_interval
        HeadRecord.relation_baseline HeadRecord.self_interval HeadRecord.sink_interval
        LayerRecord.confidence LayerRecord.distance LayerRecord.end LayerRecord.next
        LayerRecord.norm_end LayerRecord.norm_punctuation LayerRecord.output LayerRecord.punctuation
        LayerRecord.self LayerRecord.sink PictureHeadRecord.n PictureHeadRecord.site Results.kind
        Results.schema TargetHeadRecord.n TargetHeadRecord.site
    """,
    "attribute": """
        Flip.other MethodRecord.notes RandomRecord.draws RandomRecord.item RandomRecord.target
        RandomRecord.text RandomRecord.unit Results.kind Results.schema
    """,
    "calibrate": """
        ErrorRecord.method JudgedRecord.aurc_interval JudgedRecord.commonest
        JudgedRecord.commonest_share JudgedRecord.ece_mass_interval JudgedRecord.ece_p JudgedRecord.n_clusters
        JudgedRecord.n_values JudgedRecord.squared_error_all_interval
        JudgedRecord.squared_error_interval Results.kind Results.schema
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
        Results.kind Results.schema TextRecord.bias
    """,
    "neurons": """
        Mean.interval Mean.n_clusters Mean.value ReadRecord.layer Results.baseline Results.kind
        Results.schema SiteRecord.layer SiteRecord.n_test SiteRecord.n_train SiteRecord.unconverged
        WordRecord.split WordRecord.value
    """,
    "patch": """
        Certificate.method Certificate.missed Mean.n_clusters Results.schema
    """,
    "probe": """
        CalibrationRecord.accuracy_interval CalibrationRecord.aurc CalibrationRecord.aurc_best
        CalibrationRecord.aurc_interval CalibrationRecord.auroc CalibrationRecord.auroc_interval
        CalibrationRecord.brier CalibrationRecord.brier_interval CalibrationRecord.classwise
        CalibrationRecord.classwise_chance CalibrationRecord.commonest
        CalibrationRecord.commonest_share CalibrationRecord.confidence_interval
        CalibrationRecord.coverage CalibrationRecord.ece CalibrationRecord.ece_chance
        CalibrationRecord.ece_interval CalibrationRecord.ece_mass CalibrationRecord.ece_mass_chance
        CalibrationRecord.ece_mass_interval CalibrationRecord.ece_p CalibrationRecord.ece_p_holm CalibrationRecord.layer
        CalibrationRecord.maximum_error CalibrationRecord.measured CalibrationRecord.n
        CalibrationRecord.n_answered CalibrationRecord.n_clusters CalibrationRecord.n_impossible
        CalibrationRecord.n_refused CalibrationRecord.n_unparsable CalibrationRecord.n_values
        CalibrationRecord.nll CalibrationRecord.nll_interval CalibrationRecord.overconfidence
        CalibrationRecord.overconfidence_interval CalibrationRecord.reliability
        CalibrationRecord.resolution CalibrationRecord.squared_error
        CalibrationRecord.squared_error_all CalibrationRecord.squared_error_all_interval
        CalibrationRecord.squared_error_interval CalibrationRecord.uncertainty
        CalibrationRecord.within ClassScores.layer CoverageRecord.best CoverageRecord.risk
        CoverageRecord.share ErrorRecord.layer ErrorRecord.site Results.kind Results.schema
    """,
    "prune": """
        Mean.interval Mean.n_clusters Mean.value Results.baseline Results.kind Results.schema
        StepRecord.n_clusters StepRecord.removed
    """,
    "swap": """
        Results.kind Results.schema
    """,
    "usage": """
        Certificate.method Certificate.misleads Certificate.missed Certificate.n_sample
        Certificate.n_top Certificate.overlap Certificate.same_sign Certificate.slope
        Certificate.spearman Certificate.spearman_sample Mean.interval Mean.n_clusters Mean.value
        Results.baseline Results.kind Results.schema
    """,
    "provenance": """
        doctor.checks doctor.findings doctor.status doctor.wrong model.attention model.bos_id
        model.causal model.device model.max_length model.notes model.random_seed model.tokenizer
        model.tokenizer_sha256
    """,
}
