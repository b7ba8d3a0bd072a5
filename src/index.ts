/**
 * The public door of tonearm. What is not exported here is private to the package.
 *
 * @module
 */
/** The tensor runtime that tonearm runs on: TensorFlow.js's functional API, the very instance that holds the tensors. */
export * as tf from "@tensorflow/tfjs-core";

export { MusicGen } from "./musicgen.js";
export type {
  AudioStream,
  ForwardOptions,
  Generation,
  GenerationSettings,
  HookedGenerateOptions,
  LoadOptions,
  Numerics,
  StreamEnd,
  StreamOptions,
  Unembedding,
} from "./musicgen.js";
export type { AudioBlock } from "./model/streaming.js";
export type { Chromagram, Melody, PrefixLength } from "./model/melody.js";
export type { Clip } from "./model/pipeline.js";
export type { Codes } from "./model/delay.js";
export type { GenerateOptions, Progress, TextInput } from "./model/request.js";
export type { MusicGenConfig } from "./model/checkpoint.js";
export { cachedSnapshot, locateModel } from "./checkpoint/hub/cache.js";
export type { Patience } from "./checkpoint/hub/connection.js";
export {
  fetchCheckpoint,
  type FetchedCheckpoint,
  type FetchOptions,
  type FetchProgress,
} from "./checkpoint/hub/fetch.js";
export type { Repository } from "./checkpoint/hub/repository.js";
export { hubSettings, type HubSettings } from "./checkpoint/hub/settings.js";
export {
  MUSICGEN_SMALL_SHAPE,
  TINY_SHAPE,
  writeRandomCheckpoint,
  type CheckpointShape,
} from "./model/random-checkpoint.js";
export type { TextSegment, TimedText } from "./model/timed-text.js";
export type { TokenBatch } from "./text/tokenizer.js";
export { PUBLISHED_VALUES, type PublishedCase, type PublishedValues } from "./published-values.js";
export { publishedValues, verifyCheckpoint, type Verification, type VerifiedCase } from "./verify.js";

export type { Activation, ActivationRow } from "./activations/activation.js";
export { DEFAULT_BUDGET_BYTES, disposeCache, type ActivationCache, type CacheOptions } from "./activations/cache.js";
export type { Site } from "./activations/catalogue.js";
export type { Hook, HookCount } from "./activations/hooks.js";
export type { SiteSelection, SiteShorthand } from "./activations/select.js";
export type { ActivationWalk } from "./activations/walk.js";

export {
  attributionSites,
  logitAttribution,
  type AttributionOptions,
  type LogitAttribution,
} from "./activations/attribution.js";
export {
  captureActivations,
  type CaptureOptions,
  type CaptureProgress,
  type CaptureSummary,
} from "./activations/capture.js";
export type { CaptureItem } from "./activations/capture-item.js";
export type { CaptureEstimate, CaptureReduction, CaptureRequest } from "./activations/capture-plan.js";
export { readCodesFile, readManifest } from "./activations/manifest.js";
export { covarianceOf, meanOf, mergeMoments, varianceOf, type Moments } from "./activations/moments.js";
export {
  openCapture,
  type Capture,
  type CaptureBatch,
  type CaptureMatrix,
  type CaptureMoments,
  type CaptureRow,
} from "./activations/store.js";
export type { CaptureSettings, Label, Labels } from "./activations/store-format.js";
export { heatMapHtml, heatMapSvg, type Table } from "./activations/heat-map.js";
export { hearLens, lensCodes, lensTable, type LensOptions } from "./activations/lens.js";
export {
  divergenceFromClean,
  logitDifference,
  patchActivations,
  patchSweep,
  type PatchInputs,
  type PatchMetric,
  type PatchRegion,
  type PatchSweep,
  type PatchSweepOptions,
} from "./activations/patching.js";
export { attentionTables } from "./activations/patterns.js";
export {
  accumulatedResidual,
  accumulatedSites,
  applyFinalNorm,
  decomposedByHeadSites,
  decomposedResidual,
  decomposedSites,
  headResults,
  type ResidualStack,
} from "./activations/residual.js";

export { fromCapture, streamMoments, type CaptureSelection } from "./probes/capture.js";
export { compareEstimators, type ComparedUnit, type Comparison } from "./probes/compare.js";
export { covarianceFromMoments } from "./probes/covariance.js";
export type { ActivationData, SiteFeatures } from "./probes/data.js";
export { meanDifferencesFromMoments } from "./probes/means.js";
export type { ClassScores, Interval, Scores, ValueScores } from "./probes/metrics.js";
export { mergeProbeMoments, probeMoments, type MomentOptions, type ProbeMoments } from "./probes/moments.js";
export { cosine, scoresOf, type Probe } from "./probes/probe.js";
export { ridgeFromMoments, type RidgeSolution } from "./probes/ridge.js";
export { readSummary, summarize, verdict, type ProbeSummary, type UnitSummary } from "./probes/summary.js";
export {
  ESTIMATORS,
  sweepProbes,
  type EstimatorName,
  type EstimatorOptions,
  type ProbeOptions,
  type ProbeSweep,
  type UnitResult,
} from "./probes/sweep.js";
export { probeReport } from "./experiments/report.js";
export {
  directionOf,
  directionShape,
  readVectors,
  requireSameModel,
  writeVectors,
  type SiteVectors,
  type SteeringVectors,
} from "./probes/vectors.js";

export { joinInterventions, withIntervention } from "./activations/intervention.js";
export type { Intervention, InterventionRun, RunPlan } from "./activations/intervention.js";
export * as directions from "./steering/algebra.js";
export type { Direction } from "./steering/algebra.js";
export { readSteering, type SteeringFiles } from "./steering/files.js";
export { PRESET_NAMES, presetSpec, type PresetOptions } from "./steering/presets.js";
export {
  parseSpec,
  withSites,
  withStrength,
  type GateSpec,
  type InterventionSpec,
  type SegmentSpec,
  type SteeringSpec,
} from "./steering/spec.js";
export { steer, type SteerOptions, type Steering, type SteeringTrace } from "./steering/steering.js";
export { measureEffect, type ClipComparison, type Effect, type Judge } from "./experiments/effect.js";
export { genreFusion, styleTransfer, timbreTransfer } from "./experiments/recipes.js";
export type { FusionOptions, FusionPart, TransferOptions } from "./experiments/recipes.js";
export { judgeAudio, loadJudge, type Judgement, type SoundJudge } from "./experiments/judge.js";
export { measureQuality, type Quality, type QualityOptions } from "./experiments/quality.js";
export { runSeedExperiment, type SeedOptions, type SeedResult } from "./experiments/seed.js";
export { writeSeedReport } from "./experiments/seed-report.js";
export { sweepSteering } from "./experiments/sweep.js";
export type { SteeringSweep, SteeringSweepOptions, SteeringSweepRow } from "./experiments/sweep.js";

export { mixStems, type Audio } from "./audio/audio.js";
export { cutLoop, loopMaterial, type Loop, type LoopOptions } from "./audio/loop.js";
export { loudness } from "./audio/loudness.js";
export {
  NORMALIZATIONS,
  normalizeAudio,
  type Normalization,
  type NormalizationStrategy,
  type Normalized,
} from "./audio/normalize.js";
export { chroma, chromaSimilarity, type Chroma } from "./audio/chroma.js";
export { measureSound, type SoundMeasures } from "./audio/measures.js";
export { readWav, writeWav } from "./audio/wav.js";

export { packCheckpoint, type PackOptions, type PackSummary } from "./checkpoint/pack.js";
export type { PackedStorage } from "./checkpoint/pack-format.js";
export type { CacheStorage } from "./runtime/attention.js";
export type { Precision, WeightStorage } from "./runtime/linear.js";

export { BACKENDS, backendStatus, useBackend, type BackendName, type BackendStatus } from "./runtime/backend.js";
export * from "./errors.js";
export { VERSION } from "./version.js";
