#!/bin/bash
# A stand-in for the reference's script: the same variables, the same order of arguments (a person's before its own, so
# that of a repeated flag its own counts), a shell that splits the line again, and the exit status of `tee`.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${SEQ:=4096}" "${TP:=1}" "${PP:=1}" "${SP:=1}" "${MICRO_BATCH:=1}" "${GRAD_ACC_STEPS:=1}" "${ZERO_STAGE:=1}"
: "${WORLD_SIZE:=1}" "${MODEL_ARCH:=7B}" "${LR:=0.0002}" "${LR_DECAY_STYLE:=cosine}" "${LR_WARMUP_FRAC:=0.05}"
: "${HIDDEN:=4096}" "${NLAYERS:=32}" "${HEADS:=32}" "${NUM_KV_HEAD:=8}" "${FFN_HIDDEN_SIZE:=11008}" "${DTYPE:=bf16}"
: "${ADAM_BETA1:=0.9}" "${ADAM_BETA2:=0.95}" "${ADAM_EPS:=0.00001}" "${WEIGHT_DECAY:=0.1}" "${ROPE_THETA:=50000}"
: "${SAVE_INTERVAL:=50}" "${EVAL_INTERVAL:=100}" "${EVAL_ITERS:=20}" "${LOG_INTERVAL:=1}"
: "${TOKENIZER_TYPE:=HFTokenizer}" "${TOKENIZER_MODEL:=google/gemma-7B}"
: "${GLOBAL_BATCH:=$((WORLD_SIZE * MICRO_BATCH * GRAD_ACC_STEPS / TP / PP / SP))}"
if [ -n "$TRAIN_TOKENS" ]; then TRAIN_ITERS=$((TRAIN_TOKENS / SEQ / GLOBAL_BATCH)); fi
: "${TRAIN_ITERS:=$((4673780159710 / SEQ / GLOBAL_BATCH))}"
: "${CKPT_DIR:=checkpoints/$MODEL_ARCH-ws$WORLD_SIZE-gb$GLOBAL_BATCH-lr$LR-lwf${LR_WARMUP_FRAC}}"
: "${LOAD:=$CKPT_DIR}" "${SAVE:=$CKPT_DIR}"
stem=$(basename "$DATA_FILE_LIST" .txt)
cache="$CKPT_DIR/.cache/$stem/index-cache"
mkdir -p "$CKPT_DIR" "$cache"
first=()
[ -n "$OVERRIDE_CKPT_OPT_PARAM" ] || first=(--use-checkpoint-opt_param-scheduler)
decay=()
[ -z "$LR_DECAY_ITERS" ] || decay=(--lr-decay-iters "$LR_DECAY_ITERS")
run_cmd=(
  exec python3 "$here/pretrain_gpt_alcf.py" "${first[@]}"
  --lr "$LR" --lr-decay-style "$LR_DECAY_STYLE" --lr-warmup-fraction "$LR_WARMUP_FRAC" "${decay[@]}"
  "$@"
  --swiglu --hidden-dropout 0 --attention-dropout 0 --normalization rmsnorm --disable-bias-linear
  --use-rotary-position-embeddings --untie-embeddings-and-output-weights --num-key-value-heads "$NUM_KV_HEAD"
  --ffn-hidden-size "$FFN_HIDDEN_SIZE" --tokenizer-type "$TOKENIZER_TYPE" --tokenizer-model "$TOKENIZER_MODEL"
  --deepspeed --no-pipeline-parallel "--zero-stage=$ZERO_STAGE" "--$DTYPE"
  "--adam-beta1=$ADAM_BETA1" "--adam-beta2=$ADAM_BETA2" "--adam-eps=$ADAM_EPS" --clip-grad=1.0
  "--data-cache-path=$cache" "--data-file-list=$DATA_FILE_LIST" "--eval-interval=$EVAL_INTERVAL"
  "--eval-iters=$EVAL_ITERS" "--global-batch-size=$GLOBAL_BATCH" "--hidden-size=$HIDDEN" --init-method-std=.02
  "--log-interval=$LOG_INTERVAL" "--load=$LOAD" "--micro-batch-size=$MICRO_BATCH" "--num-layers=$NLAYERS"
  "--num-attention-heads=$HEADS" --optimizer=adamw "--rotary-position-embeddings-theta=$ROPE_THETA" "--save=$SAVE"
  "--seq-length=$SEQ" "--max-position-embeddings=$SEQ" "--split=${TRAIN_SPLIT:-990},${VAL_SPLIT:-10},${TEST_SPLIT:-0}"
  --shuffle-sample-in-corpus "--save-interval=$SAVE_INTERVAL" "--train-iters=$TRAIN_ITERS"
  "--tensor-model-parallel-size=$TP" "--weight-decay=$WEIGHT_DECAY"
)
echo "WORLD_SIZE: $WORLD_SIZE MBS: $MICRO_BATCH GAS: $GRAD_ACC_STEPS GBS: $GLOBAL_BATCH"
echo "TRAIN_ITERS=$TRAIN_ITERS"
echo "${run_cmd[*]}"
bash -c "${run_cmd[*]}" |& tee "$CKPT_DIR/output.log"
